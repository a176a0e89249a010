// Edit a picture by `sdd export RUN --part editor --out editor.onnx`:
//
//   edit_onnxruntime editor.onnx face.ppm edited.ppm 1.0
//
// The picture has the size that the encoder takes, see `sdd info editor.onnx`; one strength an
// edit. Written against ONNX Runtime's C interface, which stays as it is from version to version.
#include <onnxruntime_c_api.h>

#include <cmath>
#include <iostream>
#include <memory>

#include "picture.h"

namespace {

const OrtApi* api = OrtGetApiBase()->GetApi(ORT_API_VERSION);

void check(OrtStatus* status) {
  if (status == nullptr) return;
  std::string message = api->GetErrorMessage(status);
  api->ReleaseStatus(status);
  throw std::runtime_error(message);
}

// Owns what ONNX Runtime makes.
template <typename T>
std::unique_ptr<T, void (*)(T*)> owned(T* made, void (*release)(T*)) {
  return {made, release};
}

auto tensor(const OrtMemoryInfo* memory, std::vector<float>& values,
            const std::vector<int64_t>& shape) {
  OrtValue* made = nullptr;
  check(api->CreateTensorWithDataAsOrtValue(memory, values.data(), values.size() * sizeof(float),
                                            shape.data(), shape.size(),
                                            ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT, &made));
  return owned(made, api->ReleaseValue);
}

}  // namespace

int main(int count, char** words) try {
  if (count < 5) {
    std::cerr << "usage: edit_onnxruntime editor.onnx in.ppm out.ppm strength...\n";
    return 2;
  }
  if (api == nullptr) throw std::runtime_error("the library is older than its header");
  OrtEnv* made_env = nullptr;
  check(api->CreateEnv(ORT_LOGGING_LEVEL_WARNING, "sdd_fast", &made_env));
  auto env = owned(made_env, api->ReleaseEnv);
  OrtSessionOptions* made_options = nullptr;
  check(api->CreateSessionOptions(&made_options));
  auto options = owned(made_options, api->ReleaseSessionOptions);
  OrtSession* made_session = nullptr;
  check(api->CreateSession(env.get(), words[1], options.get(), &made_session));
  auto session = owned(made_session, api->ReleaseSession);
  OrtMemoryInfo* made_memory = nullptr;
  check(api->CreateCpuMemoryInfo(OrtArenaAllocator, OrtMemTypeDefault, &made_memory));
  auto memory = owned(made_memory, api->ReleaseMemoryInfo);

  Picture in = read_ppm(words[2]);
  std::vector<float> images(in.rgb.size()), strengths;  // [1, 3, H, W], -1 to 1; [1, edits]
  int64_t pixels = in.width * in.height;
  for (int64_t i = 0; i < pixels; ++i)
    for (int64_t c = 0; c < 3; ++c) images[c * pixels + i] = in.rgb[3 * i + c] / 127.5f - 1.0f;
  for (int i = 4; i < count; ++i) strengths.push_back(std::stof(words[i]));
  auto given_images = tensor(memory.get(), images, {1, 3, in.height, in.width});
  auto given_strengths =
      tensor(memory.get(), strengths, {1, static_cast<int64_t>(strengths.size())});

  const char* inputs[] = {"images", "strengths"};
  const char* outputs[] = {"edited"};
  const OrtValue* given[] = {given_images.get(), given_strengths.get()};
  OrtValue* made_edited = nullptr;
  check(api->Run(session.get(), nullptr, inputs, given, 2, outputs, 1, &made_edited));
  auto edited = owned(made_edited, api->ReleaseValue);

  OrtTensorTypeAndShapeInfo* made_info = nullptr;
  check(api->GetTensorTypeAndShape(edited.get(), &made_info));
  auto info = owned(made_info, api->ReleaseTensorTypeAndShapeInfo);
  int64_t shape[4];  // [1, 3, H, W]
  check(api->GetDimensions(info.get(), shape, 4));
  void* raw = nullptr;
  check(api->GetTensorMutableData(edited.get(), &raw));
  const float* values = static_cast<const float*>(raw);
  Picture out{shape[3], shape[2], std::vector<uint8_t>(3 * shape[2] * shape[3])};
  pixels = out.width * out.height;
  for (int64_t i = 0; i < pixels; ++i)
    for (int64_t c = 0; c < 3; ++c)
      out.rgb[3 * i + c] =
          static_cast<uint8_t>(std::lround((values[c * pixels + i] + 1.0f) * 127.5f));
  write_ppm(words[3], out);
  return 0;
} catch (const std::exception& error) {
  std::cerr << error.what() << "\n";
  return 1;
}
