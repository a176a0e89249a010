// Finds the __shared__ arrays of this library and fills them between blocks.
#pragma once

#include <bit>
#include <cstdint>
#include <cstring>

#if defined(__linux__)
#include <elf.h>
#include <link.h>

#include <fstream>
#include <string>
#include <vector>
#endif

namespace sdd::emulation {
namespace {

struct Range {
  unsigned char* begin = nullptr;
  unsigned char* end = nullptr;
};

#if defined(__linux__)

// The section that the attribute of __shared__ puts the arrays into. Its name is no C identifier,
// so that the linker defines no symbol for its ends: they are read from the file.
Range section_in(const char* file, uintptr_t base) {
  std::ifstream in(file, std::ios::binary);
  ElfW(Ehdr) header;
  if (!in.read(reinterpret_cast<char*>(&header), sizeof header)) return {};
  std::vector<ElfW(Shdr)> sections(header.e_shnum);
  in.seekg(std::streamoff(header.e_shoff));
  in.read(reinterpret_cast<char*>(sections.data()),
          std::streamsize(sections.size() * sizeof(ElfW(Shdr))));
  if (!in || header.e_shstrndx >= sections.size()) return {};
  const ElfW(Shdr) & table = sections[header.e_shstrndx];
  std::string names(table.sh_size, '\0');
  in.seekg(std::streamoff(table.sh_offset));
  if (!in.read(names.data(), std::streamsize(names.size()))) return {};
  for (const ElfW(Shdr) & section : sections) {
    if (strcmp(names.c_str() + section.sh_name, ".noinit") == 0) {
      unsigned char* begin = reinterpret_cast<unsigned char*>(base + section.sh_addr);
      return {begin, begin + section.sh_size};
    }
  }
  return {};
}

Range find_shared_memory() {
  static const char here = 0;
  Range found;
  dl_iterate_phdr(
      [](dl_phdr_info* info, size_t, void* result) {
        for (int i = 0; i < info->dlpi_phnum; ++i) {
          const ElfW(Phdr) & part = info->dlpi_phdr[i];
          const uintptr_t begin = info->dlpi_addr + part.p_vaddr;
          const uintptr_t at = reinterpret_cast<uintptr_t>(&here);
          if (part.p_type != PT_LOAD || at < begin || at >= begin + part.p_memsz) continue;
          const bool program = info->dlpi_name[0] == '\0';
          *static_cast<Range*>(result) =
              section_in(program ? "/proc/self/exe" : info->dlpi_name, info->dlpi_addr);
          return 1;
        }
        return 0;
      },
      &found);
  return found;
}

#else

Range find_shared_memory() { return {}; }

#endif

// The next two go over the address sanitizer's red zones between arrays: they must not be checked,
// nor turned into calls of memset.
#define SDD_UNCHECKED __attribute__((no_sanitize("address", "undefined"), noinline))

SDD_UNCHECKED void fill(Range range) {
#if defined(__x86_64__)
  unsigned char* p = range.begin;
  size_t n = size_t(range.end - range.begin);
  asm volatile("rep stosb" : "+D"(p), "+c"(n) : "a"(0xff) : "memory");
#else
  for (volatile unsigned char* p = range.begin; p < range.end; ++p) *p = 0xff;
#endif
}

SDD_UNCHECKED Range changed(Range range) {
  while (range.end - range.begin >= 8) {
    uint64_t word;
    __builtin_memcpy(&word, range.begin, 8);
    if (~word != 0) break;
    range.begin += 8;
  }
  while (range.end - range.begin >= 8) {
    uint64_t word;
    __builtin_memcpy(&word, range.end - 8, 8);
    if (~word != 0) break;
    range.end -= 8;
  }
  while (range.begin < range.end && *range.begin == 0xff) ++range.begin;
  while (range.begin < range.end && range.end[-1] == 0xff) --range.end;
  return range;
}

#undef SDD_UNCHECKED

// Of one launch. The section holds the arrays of all kernels, so that filling all of it for each
// block would take longer than the block: it is searched for what the kernel wrote after blocks 1,
// 2, 4, 8, …, and that part is filled. What a kernel wrote in no block before such a search it can
// find again in the one after.
class SharedMemory {
 public:
  void begin_block(uint64_t place) {
    if (place == 0) {
      fill(all());
    } else if (std::has_single_bit(place)) {
      used_ = changed(all());
    }
    fill(used_);
  }

  // By the block that ran last.
  bool touched() const {
    const Range part = changed(all());
    return part.begin != part.end;
  }

 private:
  static Range all() {
    static const Range section = find_shared_memory();
    return section;
  }

  Range used_;
};

}  // namespace
}  // namespace sdd::emulation
