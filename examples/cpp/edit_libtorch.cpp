// Edit a picture by `sdd export RUN --part editor --out editor.pt`:
//
//   edit_libtorch editor.pt face.ppm edited.ppm 1.0
//
// The picture has the size that the encoder takes, see `sdd info editor.pt`; one strength an edit.
#include <torch/script.h>

#include <iostream>

#include "picture.h"

int main(int count, char** words) try {
  if (count < 5) {
    std::cerr << "usage: edit_libtorch editor.pt in.ppm out.ppm strength...\n";
    return 2;
  }
  torch::InferenceMode guard;
  torch::jit::ExtraFilesMap about{{"sdd.json", ""}};
  torch::jit::Module editor = torch::jit::load(words[1], torch::kCPU, about);
  std::cout << about["sdd.json"] << "\n";

  Picture in = read_ppm(words[2]);
  torch::Tensor bytes = torch::from_blob(in.rgb.data(), {1, in.height, in.width, 3}, torch::kUInt8);
  torch::Tensor images = bytes.permute({0, 3, 1, 2}).to(torch::kFloat32) / 127.5 - 1.0;
  std::vector<float> values;
  for (int i = 4; i < count; ++i) values.push_back(std::stof(words[i]));
  torch::Tensor strengths = torch::tensor(values).unsqueeze(0);  // [1, edits]

  torch::Tensor edited = editor.forward({images, strengths}).toTensor();  // [1, 3, H, W], -1 to 1
  torch::Tensor rgb = ((edited[0] + 1.0) * 127.5).round().to(torch::kUInt8);
  rgb = rgb.permute({1, 2, 0}).contiguous();
  const uint8_t* data = rgb.data_ptr<uint8_t>();
  write_ppm(words[3], {rgb.size(1), rgb.size(0), {data, data + rgb.numel()}});
  return 0;
} catch (const std::exception& error) {
  std::cerr << error.what() << "\n";
  return 1;
}
