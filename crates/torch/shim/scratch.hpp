// Working memory of a thread, kept from call to call.
#pragma once
#include <cstdint>
#include <cstdlib>
#include <memory>
#include <new>

namespace tidemill {

// Memory that only grows, aligned to a cache line; not initialised.
class Scratch {
 public:
  template <typename T>
  T* take(int64_t count) {
    const size_t bytes = (size_t(count) * sizeof(T) + 63) / 64 * 64;
    if (bytes > size_) {
      memory_.reset();
      size_ = 0;
      memory_.reset(static_cast<char*>(std::aligned_alloc(64, bytes)));
      if (!memory_) throw std::bad_alloc();
      size_ = bytes;
    }
    return reinterpret_cast<T*>(memory_.get());
  }

 private:
  struct Free {
    void operator()(char* memory) const { std::free(memory); }
  };
  std::unique_ptr<char, Free> memory_;
  size_t size_ = 0;
};

}  // namespace tidemill
