/* sine.h: sine and cosine, the same bits whatever the platform's mathematics library. */
#ifndef S2S_SINE_H
#define S2S_SINE_H

/* Largest |angle| in radians that is computed. */
#define S2S_MAX_ANGLE 0x1p29f

/* The angle in radians, |angle| <= S2S_MAX_ANGLE; results are within 0.501 units of the last place. */
void s2s_sine_cosine(float angle, float *sine, float *cosine);

#endif
