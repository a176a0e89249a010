// A picture as a binary PPM file (P6), which most programs write: `convert face.jpg face.ppm`.
#pragma once

#include <cstdint>
#include <fstream>
#include <stdexcept>
#include <string>
#include <vector>

struct Picture {
  int64_t width = 0, height = 0;
  std::vector<uint8_t> rgb;  // [height, width, 3]
};

inline Picture read_ppm(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  std::string kind;
  Picture picture;
  int most = 0;
  file >> kind >> picture.width >> picture.height >> most;
  file.get();
  if (!file || kind != "P6" || most != 255 || picture.width < 1 || picture.height < 1 ||
      picture.width > 1 << 14 || picture.height > 1 << 14)
    throw std::runtime_error(path + " is no binary PPM picture (P6) of 8 bits");
  picture.rgb.resize(picture.width * picture.height * 3);
  file.read(reinterpret_cast<char*>(picture.rgb.data()), picture.rgb.size());
  if (!file) throw std::runtime_error(path + " lacks its end");
  return picture;
}

inline void write_ppm(const std::string& path, const Picture& picture) {
  std::ofstream file(path, std::ios::binary);
  file << "P6\n" << picture.width << " " << picture.height << "\n255\n";
  file.write(reinterpret_cast<const char*>(picture.rgb.data()), picture.rgb.size());
  if (!file) throw std::runtime_error("cannot write " + path);
}
