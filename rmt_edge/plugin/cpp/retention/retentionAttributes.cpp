#include "retentionAttributes.h"

#include <algorithm>

using namespace nvinfer1;

namespace rmt_edge
{
namespace
{

constexpr int32_t kHEAD_DIMS[] = {16, 32}; // HEAD_DIMS of ops/retention/kernels.py

} // namespace

RetentionAttributes::RetentionAttributes(PluginFields const& fields)
    : numHeads{fields.integer("num_heads")}
    , decay{fields.numbers("decay")}
    , decomposed{fields.integer("decomposed")}
    , channels{fields.integer("channels")}
    , inputScale{fields.numberOr("input_scale", 0.0F)}
    , outputScale{fields.numberOr("output_scale", 0.0F)}
{
    if (numHeads < 1 || channels < 1 || channels % numHeads != 0)
    {
        fields.refuse(std::to_string(numHeads) + " heads do not divide " + std::to_string(channels) + " channels.");
    }
    int32_t const headDim = channels / numHeads;
    if (std::find(std::begin(kHEAD_DIMS), std::end(kHEAD_DIMS), headDim) == std::end(kHEAD_DIMS))
    {
        fields.refuse("head dim " + std::to_string(headDim) + " (" + std::to_string(channels) + " channels, "
            + std::to_string(numHeads) + " heads) unsupported; supported: 16, 32.");
    }
    if (static_cast<int32_t>(decay.size()) != numHeads)
    {
        fields.refuse(std::to_string(decay.size()) + " decays for " + std::to_string(numHeads) + " heads.");
    }
    for (float const value : decay)
    {
        if (!(value < 0.0F))
        {
            fields.refuse("decay " + std::to_string(value) + " is not negative; it is the logarithm of a factor below 1.");
        }
    }
    if (decomposed != 0 && decomposed != 1)
    {
        fields.refuse("decomposed is " + std::to_string(decomposed) + "; allowed: 0, 1.");
    }
    if (!(inputScale >= 0.0F))
    {
        fields.refuse("input_scale is " + std::to_string(inputScale) + "; it must be positive, or 0 for a float qkv.");
    }
    if (!(outputScale >= 0.0F))
    {
        fields.refuse("output_scale is " + std::to_string(outputScale) + "; it must be positive, or 0 for a float output.");
    }
}

std::vector<PluginField> RetentionAttributes::fields() const
{
    std::vector<PluginField> fields{
        {"num_heads", &numHeads, PluginFieldType::kINT32, 1},
        {"decay", decay.data(), PluginFieldType::kFLOAT32, static_cast<int32_t>(decay.size())},
        {"decomposed", &decomposed, PluginFieldType::kINT32, 1},
        {"channels", &channels, PluginFieldType::kINT32, 1},
        {"output_scale", &outputScale, PluginFieldType::kFLOAT32, 1},
        // Also where it is 0: the creator's list comes from here, and TensorRT hands over no attribute that is not on it.
        {"input_scale", &inputScale, PluginFieldType::kFLOAT32, 1},
    };
    return fields;
}

} // namespace rmt_edge
