// Walks a plugin through its life in TensorRT: created, configured, serialised, created again, attached, given shapes
// and a tactic, enqueued, destroyed. Prints what the plugin answers, a line of JSON each.
//
//   host LIBRARY OP [name=number]...    numbers: those of `given`. The exit status says which step failed.
#include <NvInferRuntime.h>

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <dlfcn.h>
#include <map>
#include <memory>
#include <string>
#include <vector>
using namespace nvinfer1;

namespace
{

std::map<std::string, double> given{
    {"decomposed", 1}, {"scale", 0}, {"input_scale", 0}, {"tactic", 0}, {"b", 2}, {"h", 14}, {"w", 28}, {"fp16", 1}, {"channels", 128},
    {"raw", 0},         // 1: qkv is a raw product, in int8 if there is an input_scale
    {"early", 0},       // 1: the tactic is set before attachToContext, which makes a copy
    {"max_b", 0},       // the largest batch of the profile, if it is not b
    {"enqueue_b", 0},   // the batch of enqueue, if it is not that of onShapeChange
    {"enqueue_fp16", -1}, // its element type, likewise
    {"attach", 1}, {"shapes", 1}, // whether attachToContext and onShapeChange are called at all
};

int64_t number(char const* name)
{
    return static_cast<int64_t>(given.at(name));
}

int32_t heads{4}, decomposed, channels;
float decay[]{-0.5F, -0.4F, -0.3F, -0.2F}, scale, inputScale, epsilon{0.25F};

struct Case
{
    std::vector<PluginField> fields;
    std::vector<PluginTensorDesc> inputs;
    std::vector<PluginTensorDesc> outputs;
};

//! The node, with the two attributes that are for the parser alone.
Case caseOf(std::string const& op, int64_t b, DataType type)
{
    int64_t const h = number("h"), w = number("w"), c = channels;
    auto const tensor = [type](Dims dims) { return PluginTensorDesc{dims, type}; };
    Case made;
    made.fields.emplace_back("plugin_namespace", "rmt_edge", PluginFieldType::kCHAR, 8);
    made.fields.emplace_back("plugin_version", "1", PluginFieldType::kCHAR, 1);
    made.fields.emplace_back("channels", &channels, PluginFieldType::kINT32, 1);
    if (scale != 0.0F)
    {
        made.fields.emplace_back("output_scale", &scale, PluginFieldType::kFLOAT32, 1);
    }
    if (inputScale != 0.0F)
    {
        made.fields.emplace_back("input_scale", &inputScale, PluginFieldType::kFLOAT32, 1);
    }
    if (op == "Retention")
    {
        made.fields.emplace_back("num_heads", &heads, PluginFieldType::kINT32, 1);
        made.fields.emplace_back("decay", decay, PluginFieldType::kFLOAT32, 4);
        made.fields.emplace_back("decomposed", &decomposed, PluginFieldType::kINT32, 1);
        made.inputs = {tensor({4, {b, h, w, 3 * c}}), tensor({2, {h * w, c / heads}}), tensor({2, {h * w, c / heads}}),
            tensor({4, {c, 1, 5, 5}}), tensor({1, {c}})};
        if (number("raw") != 0)
        {
            made.inputs.insert(made.inputs.end(), {tensor({1, {3 * c}}), tensor({1, {3 * c}})});
        }
    }
    else
    {
        made.inputs = {tensor({4, {b, h, w, c}}), tensor({3, {3, 3, c}}), tensor({1, {c}})};
        if (op.find("Add") != std::string::npos)
        {
            made.inputs.push_back(made.inputs[0]);
        }
        if (op.find("Norm") != std::string::npos)
        {
            made.fields.emplace_back("epsilon", &epsilon, PluginFieldType::kFLOAT32, 1);
            made.inputs.insert(made.inputs.end(), {tensor({1, {c}}), tensor({1, {c}})});
            made.outputs.push_back(tensor({4, {b, h, w, c}}));
        }
        if (op.find("Scaled") != std::string::npos)
        {
            made.inputs.insert(made.inputs.end(), {tensor({1, {c}}), tensor({1, {c}})});
        }
    }
    made.inputs[0].type = inputScale > 0.0F ? DataType::kINT8 : type;
    made.outputs.push_back(tensor({4, {b, h, w, c}}));
    made.outputs.back().type = scale > 0.0F ? DataType::kINT8 : type;
    return made;
}

std::vector<DynamicPluginTensorDesc> dynamic(
    std::vector<PluginTensorDesc> const& descs, std::vector<PluginTensorDesc> const& largest)
{
    std::vector<DynamicPluginTensorDesc> made;
    for (size_t i = 0; i < descs.size(); ++i)
    {
        made.push_back({descs[i], descs[i].dims, largest[i].dims, descs[i].dims});
    }
    return made;
}

template <typename T>
T* capability(IPluginV3* plugin, PluginCapabilityType type)
{
    return static_cast<T*>(plugin->getCapabilityInterface(type));
}

IPluginCreatorV3One* creatorOf(void* library, std::string const& op)
{
    using GetCreators = IPluginCreatorInterface* const* (*)(int32_t&);
    int32_t count{};
    auto const creators = reinterpret_cast<GetCreators>(dlsym(library, "getCreators"))(count);
    for (int32_t i = 0; i < count; ++i)
    {
        auto const creator = static_cast<IPluginCreatorV3One*>(creators[i]);
        if (op == creator->getPluginName())
        {
            return creator;
        }
    }
    return nullptr;
}

void printFields(PluginFieldCollection const& fields)
{
    for (int32_t i = 0; i < fields.nbFields; ++i)
    {
        std::printf("%s\"%s\": [%d, %d]", i == 0 ? "{\"fields\": {" : ", ", fields.fields[i].name,
            static_cast<int32_t>(fields.fields[i].type), fields.fields[i].length);
    }
    std::puts("}}");
}

} // namespace

int main(int nbArguments, char** arguments)
{
    void* const library = dlopen(arguments[1], RTLD_NOW);
    std::string const op = arguments[2];
    if (library == nullptr) { std::puts(dlerror()); return 2; }
    for (int i = 3; i < nbArguments; ++i)
    {
        std::string const argument = arguments[i];
        given.at(argument.substr(0, argument.find('='))) = std::atof(argument.substr(argument.find('=') + 1).c_str());
    }
    decomposed = number("decomposed");
    channels = number("channels");
    scale = static_cast<float>(given.at("scale"));
    inputScale = static_cast<float>(given.at("input_scale"));
    auto const typeOf = [](int64_t isFp16) { return isFp16 != 0 ? DataType::kHALF : DataType::kFLOAT; };
    Case const node = caseOf(op, number("b"), typeOf(number("fp16")));
    int32_t const nbInputs = node.inputs.size(), nbOutputs = node.outputs.size();
    IPluginCreatorV3One* const creator = creatorOf(library, op);
    PluginFieldCollection const collection{static_cast<int32_t>(node.fields.size()), node.fields.data()};
    std::unique_ptr<IPluginV3> const built{creator->createPlugin("node", &collection, TensorRTPhase::kBUILD)};
    if (built == nullptr) { return 3; }
    Case const largest = caseOf(op, number(number("max_b") != 0 ? "max_b" : "b"), typeOf(number("fp16")));
    auto const in = dynamic(node.inputs, largest.inputs), out = dynamic(node.outputs, largest.outputs);
    auto const build = capability<IPluginV3OneBuild>(built.get(), PluginCapabilityType::kBUILD);
    if (build->configurePlugin(in.data(), nbInputs, out.data(), nbOutputs) != 0) { return 4; }
    std::vector<int32_t> tactics(static_cast<size_t>(build->getNbTactics()));
    build->getValidTactics(tactics.data(), build->getNbTactics());
    std::printf("{\"tactics\": [%d", tactics.at(0));
    for (size_t i = 1; i < tactics.size(); ++i) { std::printf(", %d", tactics[i]); }
    std::printf("], \"workspace\": %zu}\n", build->getWorkspaceSize(in.data(), nbInputs, out.data(), nbOutputs));
    // An engine file later: made again from what was serialised, and attached to a context.
    auto const runtimeOf
        = [](IPluginV3* of) { return capability<IPluginV3OneRuntime>(of, PluginCapabilityType::kRUNTIME); };
    PluginFieldCollection const* const stored = runtimeOf(built.get())->getFieldsToSerialize();
    printFields(*stored);
    std::unique_ptr<IPluginV3> plugin{creator->createPlugin("node", stored, TensorRTPhase::kRUNTIME)};
    if (plugin == nullptr) { return 5; }
    if (number("early") != 0 && runtimeOf(plugin.get())->setTactic(number("tactic")) != 0) { return 7; }
    if (number("attach") != 0)
    {
        plugin.reset(runtimeOf(plugin.get())->attachToContext(nullptr));
        if (plugin == nullptr) { return 6; }
    }
    std::puts("{\"attached\": 1}");
    IPluginV3OneRuntime* const runtime = runtimeOf(plugin.get());
    if (number("early") == 0 && runtime->setTactic(number("tactic")) != 0) { return 7; }
    if (number("shapes") != 0
        && runtime->onShapeChange(node.inputs.data(), nbInputs, node.outputs.data(), nbOutputs) != 0)
    {
        return 7;
    }
    int64_t const batch = number("enqueue_b") != 0 ? number("enqueue_b") : number("b");
    Case const run = caseOf(op, batch, typeOf(number("enqueue_fp16") >= 0 ? number("enqueue_fp16") : number("fp16")));
    void const* inputs[] = {(void*)0x1000, (void*)0x2000, (void*)0x3000, (void*)0x4000, (void*)0x5000, (void*)0x8000,
        (void*)0xa000, (void*)0xb000};
    void* outputs[] = {(void*)0x6000, (void*)0x9000};
    std::puts("{\"enqueue\": 1}");
    int32_t const result = runtime->enqueue(
        run.inputs.data(), run.outputs.data(), inputs, outputs, (void*)0x7000, (cudaStream_t)0x77);
    return result == 0 ? 0 : 8;
}
