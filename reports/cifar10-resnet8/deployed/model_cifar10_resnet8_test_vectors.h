// Test examples of cifar10-resnet8, and what LiteRT's reference kernels return for each.
#ifndef MODEL_CIFAR10_RESNET8_TEST_VECTORS_H_
#define MODEL_CIFAR10_RESNET8_TEST_VECTORS_H_

#include <stdint.h>

#define MODEL_CIFAR10_RESNET8_EXAMPLES 10
#define MODEL_CIFAR10_RESNET8_INPUT_0_SIZE 3072  // values per example; shape 32 x 32 x 3
#define MODEL_CIFAR10_RESNET8_OUTPUT_SIZE 10  // values per example; shape 10

#ifdef __cplusplus
extern "C" {
#endif

extern const int8_t model_cifar10_resnet8_input_0[];
extern const int8_t model_cifar10_resnet8_output[];

#ifdef __cplusplus
}
#endif

#endif  // MODEL_CIFAR10_RESNET8_TEST_VECTORS_H_
