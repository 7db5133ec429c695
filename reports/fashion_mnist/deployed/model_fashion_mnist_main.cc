// Runs the test vectors of fashion_mnist with TensorFlow Lite Micro. Prints PASS or FAIL, and returns 0 or 1.
#include <cmath>
#include <cstdint>
#include <cstring>

#include "tensorflow/lite/micro/micro_interpreter.h"
#include "tensorflow/lite/micro/micro_log.h"
#include "tensorflow/lite/micro/micro_mutable_op_resolver.h"
#include "tensorflow/lite/micro/system_setup.h"
#include "tensorflow/lite/schema/schema_generated.h"
#include "model_fashion_mnist.h"
#include "model_fashion_mnist_test_vectors.h"

namespace {

// Memory for tensors, an estimate: 10,144 bytes of tensors, placed by lifetime as TensorFlow Lite
// Micro places them, and 4,208 bytes for what it keeps per tensor, operator and output channel (reference
// kernels on a 64-bit host; boards of 32 bits need less). Kernels with buffers of their own, such as CMSIS-NN, need
// more. The program prints what is used.
constexpr int kArenaBytes = 14352;
alignas(16) uint8_t arena[kArenaBytes];

// The operators of the file.
constexpr int kOperators = 4;
TfLiteStatus AddOperators(tflite::MicroMutableOpResolver<kOperators>& resolver) {
  TF_LITE_ENSURE_STATUS(resolver.AddConv2D());
  TF_LITE_ENSURE_STATUS(resolver.AddMaxPool2D());
  TF_LITE_ENSURE_STATUS(resolver.AddReshape());
  TF_LITE_ENSURE_STATUS(resolver.AddFullyConnected());
  return kTfLiteOk;
}

// Copies an example into an input. Fails if the sizes differ.
bool SetInput(TfLiteTensor* tensor, const void* values, size_t bytes) {
  if (tensor == nullptr || tensor->bytes != bytes) return false;
  std::memcpy(tensor->data.raw, values, bytes);
  return true;
}

// The largest difference from the expected output of an example; infinity if a value is no number.
double CompareOutput(const TfLiteTensor* tensor, const int8_t* expected) {
  const int8_t* found = reinterpret_cast<const int8_t*>(tensor->data.raw);
  double largest = 0;
  for (int i = 0; i < MODEL_FASHION_MNIST_OUTPUT_SIZE; ++i) {
    const double difference = std::fabs(static_cast<double>(found[i]) - static_cast<double>(expected[i]));
    if (std::isnan(difference)) return HUGE_VAL;
    if (difference > largest) largest = difference;
  }
  return largest;
}

bool RunTestVectors() {
  static tflite::MicroMutableOpResolver<kOperators> resolver;
  if (AddOperators(resolver) != kTfLiteOk) return false;
  static tflite::MicroInterpreter interpreter(tflite::GetModel(model_fashion_mnist), resolver, arena, kArenaBytes);
  if (interpreter.AllocateTensors() != kTfLiteOk) return false;
  MicroPrintf("arena: %d of %d bytes used", static_cast<int>(interpreter.arena_used_bytes()), kArenaBytes);
  // One step of the integer output.
  constexpr double kTolerance = 1;
  int failures = 0;
  for (int i = 0; i < MODEL_FASHION_MNIST_EXAMPLES; ++i) {
    if (!SetInput(interpreter.input(0), model_fashion_mnist_input_0 + i * MODEL_FASHION_MNIST_INPUT_0_SIZE,
                  MODEL_FASHION_MNIST_INPUT_0_SIZE * sizeof(int8_t))) {
      MicroPrintf("input 0 has another size");
      return false;
    }
    if (interpreter.Invoke() != kTfLiteOk) return false;
    const TfLiteTensor* output = interpreter.output(0);
    if (output->bytes != MODEL_FASHION_MNIST_OUTPUT_SIZE * sizeof(int8_t)) {
      MicroPrintf("the output has another size");
      return false;
    }
    const double difference = CompareOutput(output, model_fashion_mnist_output + i * MODEL_FASHION_MNIST_OUTPUT_SIZE);
    if (!(difference <= kTolerance)) {
      MicroPrintf("example %d: the output differs by up to %f", i, difference);
      ++failures;
    }
  }
  MicroPrintf("%d of %d test vectors agree", MODEL_FASHION_MNIST_EXAMPLES - failures, MODEL_FASHION_MNIST_EXAMPLES);
  return failures == 0;
}

}  // namespace

int main() {
  tflite::InitializeTarget();
  const bool passed = RunTestVectors();
  MicroPrintf(passed ? "PASS" : "FAIL");
  return passed ? 0 : 1;
}
