// For a processor without Python: prints what the creators of a library say of themselves, and the library's info.
#include <NvInferRuntime.h>
#include <cstdio>
#include <dlfcn.h>
int main(int, char** arguments)
{
    void* library = dlopen(arguments[1], RTLD_NOW);
    if (library == nullptr) { std::puts(dlerror()); return 1; }
    using GetCreators = nvinfer1::IPluginCreatorInterface* const* (*)(int32_t&);
    int32_t count{};
    auto creators = reinterpret_cast<GetCreators>(dlsym(library, "getCreators"))(count);
    for (int32_t i = 0; i < count; ++i)
    {
        auto creator = static_cast<nvinfer1::IPluginCreatorV3One*>(creators[i]);
        std::printf("%s %s ", creator->getPluginName(), creator->getPluginVersion());
        std::puts(creator->getPluginNamespace());
        nvinfer1::PluginFieldCollection empty{};
        std::printf("%d\n", creator->createPlugin("bad", &empty, nvinfer1::TensorRTPhase::kBUILD) == nullptr);
    }
    std::puts(reinterpret_cast<char const* (*)()>(dlsym(library, "rmt_edge_library_info"))());
}
