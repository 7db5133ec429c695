// Test examples of fashion_mnist, and what LiteRT's reference kernels return for each.
#ifndef MODEL_FASHION_MNIST_TEST_VECTORS_H_
#define MODEL_FASHION_MNIST_TEST_VECTORS_H_

#include <stdint.h>

#define MODEL_FASHION_MNIST_EXAMPLES 10
#define MODEL_FASHION_MNIST_INPUT_0_SIZE 784  // values per example; shape 28 x 28 x 1
#define MODEL_FASHION_MNIST_OUTPUT_SIZE 10  // values per example; shape 10

#ifdef __cplusplus
extern "C" {
#endif

extern const int8_t model_fashion_mnist_input_0[];
extern const int8_t model_fashion_mnist_output[];

#ifdef __cplusplus
}
#endif

#endif  // MODEL_FASHION_MNIST_TEST_VECTORS_H_
