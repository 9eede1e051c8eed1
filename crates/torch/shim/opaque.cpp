// Models of which nothing is known but tensors in and tensors out: TorchScript modules and AOTInductor packages, opened
// from a file and called on bytes. Both run what the file holds: the caller has made sure that this is wanted.
#include "shim.hpp"

#include <c10/util/env.h>
#include <torch/csrc/inductor/aoti_package/model_package_loader.h>
#include <torch/csrc/jit/api/module.h>
#include <torch/csrc/jit/serialization/import.h>

#ifdef __linux__
#include <dlfcn.h>
#include <sys/mman.h>
#include <unistd.h>
#endif

#include <mutex>

namespace tidemill::opaque {

// One tensor of a call, its bytes in pieces that lie one after the other.
struct Input {
  int32_t type;  // a c10::ScalarType
  int64_t dims;
  const int64_t* shape;
  int64_t pieces;
  const uint8_t* const* data;
  const int64_t* sizes;
};

struct Output {
  std::string name;  // a dictionary's key, otherwise empty
  Tensor tensor;
};

using Outputs = std::vector<Output>;

struct Model {
  virtual ~Model() = default;
  virtual std::string arguments(int64_t& required) const = 0;
  virtual Outputs run(std::vector<Tensor> inputs) = 0;
};

namespace {

void add(Outputs& outputs, std::string name, const c10::IValue& value) {
  TORCH_CHECK(value.isTensor(), "the model gives a ", value.tagKind(), " where a tensor is wanted");
  const Tensor& tensor = value.toTensor();
  TORCH_CHECK(tensor.defined() && tensor.layout() == at::kStrided && !tensor.is_quantized(), "the model gives a tensor without plain numbers");
  outputs.push_back({std::move(name), tensor.detach().resolve_conj().resolve_neg().to(at::kCPU).contiguous()});
}

class Script final : public Model {
 public:
  explicit Script(const std::string& path) : module_(torch::jit::load(path, at::kCPU)) {
    TORCH_CHECK(module_.find_method("forward"), "the module has no forward");
    module_.eval();
  }

  std::string arguments(int64_t& required) const override {
    std::string names;
    required = 0;
    for (const c10::Argument& argument : module_.get_method("forward").function().getSchema().arguments()) {
      if (argument.name() == "self") continue;
      if (!argument.default_value()) required++;
      names += argument.name() + "\n";
    }
    return names;
  }

  Outputs run(std::vector<Tensor> inputs) override {
    const c10::IValue result = module_.forward({inputs.begin(), inputs.end()});
    Outputs outputs;
    if (result.isTuple()) {
      for (const c10::IValue& value : result.toTupleRef().elements()) add(outputs, "", value);
    } else if (result.isList()) {
      for (const c10::IValue& value : result.toListRef()) add(outputs, "", value);
    } else if (result.isGenericDict()) {
      for (const auto& entry : result.toGenericDict()) {
        TORCH_CHECK(entry.key().isString(), "the model gives a dictionary whose keys are not strings");
        add(outputs, entry.key().toStringRef(), entry.value());
      }
    } else {
      add(outputs, "", result);
    }
    return outputs;
  }

 private:
  torch::jit::Module module_;
};

// What AOTInductor compiles asks the dynamic linker for `libtorch.so`, a name that stands for the libraries it goes on to
// name and that we have linked. Where the libtorch at hand has no such library, `stub`, empty but for the name, takes its
// place: the linker looks among what is loaded first.
void provide_name(const uint8_t* stub, int64_t size) {
#ifdef __linux__
  static std::once_flag once;
  std::call_once(once, [&] {
    if (size == 0 || dlopen("libtorch.so", RTLD_LAZY | RTLD_NOLOAD)) return;
    const int file = memfd_create("libtorch.so", MFD_CLOEXEC);
    if (file < 0) return;
    if (write(file, stub, size) == size) dlopen(("/proc/self/fd/" + std::to_string(file)).c_str(), RTLD_LAZY | RTLD_GLOBAL);
    close(file);
  });
#endif
}

class Compiled final : public Model {
 public:
  explicit Compiled(const std::string& path) : loader_((check_inputs(), path)) {}

  std::string arguments(int64_t& required) const override {
    required = 0;
    return "";
  }

  Outputs run(std::vector<Tensor> inputs) override {
    Outputs outputs;
    for (const Tensor& tensor : loader_.boxed_run(std::move(inputs))) add(outputs, "", tensor);
    return outputs;
  }

 private:
  // A package's code reads its inputs by the types and sizes that it was compiled for, past their ends where they are
  // smaller. It compares them first only if this is set, which it looks up at its first call.
  static void check_inputs() { c10::utils::set_env("AOTI_RUNTIME_CHECK_INPUTS", "1", false); }

  torch::inductor::AOTIModelPackageLoader loader_;
};

// The one copy of the caller's bytes: into memory that is aligned, and that the model may write to.
Tensor tensor(const Input& input) {
  Tensor result = at::empty(at::IntArrayRef(input.shape, input.dims), at::TensorOptions(static_cast<c10::ScalarType>(input.type)));
  size_t total = 0;
  for (int64_t i = 0; i < input.pieces; i++) total += input.sizes[i];
  TORCH_CHECK(total == result.nbytes(), "a tensor takes ", result.nbytes(), " bytes and is given ", total);
  auto* to = static_cast<uint8_t*>(result.mutable_data_ptr());
  for (int64_t i = 0; i < input.pieces; i++) {
    if (input.sizes[i] == 0) continue;
    std::memcpy(to, input.data[i], input.sizes[i]);
    to += input.sizes[i];
  }
  return result;
}

}  // namespace
}  // namespace tidemill::opaque

using namespace tidemill;

extern "C" {

char* tm_opaque_open_script(opaque::Model** result, const char* path) {
  return guarded([&] { *result = new opaque::Script(path); });
}

char* tm_opaque_open_compiled(opaque::Model** result, const char* path, const uint8_t* stub, int64_t stub_size) {
  return guarded([&] {
    opaque::provide_name(stub, stub_size);
    *result = new opaque::Compiled(path);
  });
}

void tm_opaque_free(opaque::Model* model) { delete model; }

// The names of forward's arguments, a line each, and how many of them have no default. The text is freed by `tm_free`.
char* tm_opaque_arguments(char** names, int64_t* required, const opaque::Model* model) {
  return guarded([&] { *names = message(model->arguments(*required).c_str()); });
}

char* tm_opaque_run(opaque::Outputs** result, opaque::Model* model, const opaque::Input* inputs, int64_t count) {
  return guarded([&] {
    const at::AutoGradMode no_gradients(false);
    std::vector<Tensor> tensors;
    tensors.reserve(count);
    for (int64_t i = 0; i < count; i++) tensors.push_back(opaque::tensor(inputs[i]));
    *result = new opaque::Outputs(model->run(std::move(tensors)));
  });
}

int64_t tm_outputs_count(const opaque::Outputs* outputs) { return outputs->size(); }

// Everything that is stored belongs to `outputs`.
void tm_outputs_describe(const opaque::Outputs* outputs, int64_t index, const char** name, int32_t* type, int64_t* dims,
                         const int64_t** shape, const uint8_t** data, int64_t* bytes) {
  const opaque::Output& output = (*outputs)[index];
  *name = output.name.c_str();
  *type = static_cast<int32_t>(output.tensor.scalar_type());
  *dims = output.tensor.dim();
  *shape = output.tensor.sizes().data();
  *data = static_cast<const uint8_t*>(output.tensor.const_data_ptr());
  *bytes = output.tensor.nbytes();
}

void tm_outputs_free(opaque::Outputs* outputs) { delete outputs; }

}  // extern "C"
