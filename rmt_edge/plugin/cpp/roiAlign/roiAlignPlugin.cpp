#include "roiAlignPlugin.h"

#include <algorithm>

using namespace nvinfer1;

namespace rmt_edge
{
namespace
{

constexpr char const* kROI_ALIGN_NAME = "MultiLevelRoiAlign";
constexpr char const* kOUTPUT_SIZE = "output_size";
constexpr int32_t kROIS = kNB_ROI_LEVELS; // the input behind the levels
constexpr int32_t kMAP_RANK = 4;          // (b, h, w, c)
constexpr int32_t kROI_RANK = 3;          // (b, n, 4)
constexpr int32_t kROI_SIZE = 4;
constexpr int32_t kOUT_RANK = 5; // (b, n, s, s, c)

PluginTensors tensors()
{
    return {{{"p2"}, {"p3"}, {"p4"}, {"p5"}, {"rois", TensorType::kFLOAT32}}, {{"out"}}};
}

RoiAlignSizes sizesOfInputs(std::vector<Dims> const& inputs)
{
    RoiAlignSizes sizes;
    sizes.batch = size32(inputs[0].d[0]);
    sizes.channels = size32(inputs[0].d[3]);
    sizes.regions = size32(inputs[kROIS].d[1]);
    for (size_t i = 0; i < kNB_ROI_LEVELS; ++i)
    {
        sizes.heights[i] = size32(inputs[i].d[1]);
        sizes.widths[i] = size32(inputs[i].d[2]);
    }
    return sizes;
}

} // namespace

RoiAlignPlugin::RoiAlignPlugin(int32_t outputSize, int32_t elementType)
    : PluginBase{kROI_ALIGN_NAME, tensors(), elementType}
    , mOutputSize{outputSize}
{
}

std::unique_ptr<PluginBase> RoiAlignPlugin::remake() const
{
    return std::make_unique<RoiAlignPlugin>(mOutputSize, elementType());
}

std::vector<PluginField> RoiAlignPlugin::attributeFields() const
{
    return {{kOUTPUT_SIZE, &mOutputSize, PluginFieldType::kINT32, 1}};
}

std::string RoiAlignPlugin::timingKey() const
{
    return "s" + std::to_string(mOutputSize);
}

std::string RoiAlignPlugin::shapesProblem(std::vector<Dims> const& inputs) const
{
    Dims const& first = inputs[0];
    for (size_t i = 0; i < kNB_ROI_LEVELS; ++i)
    {
        Dims const& map = inputs[i];
        if (map.nbDims != kMAP_RANK || first.nbDims != kMAP_RANK || differs(map.d[0], first.d[0])
            || differs(map.d[3], first.d[3]))
        {
            return "p2 to p5 must be (b, h, w, c) with one b and one c; p" + std::to_string(i + 2) + " is "
                + dimsText(sizesOf(map)) + " beside p2 of " + dimsText(sizesOf(first)) + ".";
        }
    }
    Dims const& rois = inputs[kROIS];
    if (rois.nbDims != kROI_RANK || differs(rois.d[0], first.d[0]) || differs(rois.d[2], kROI_SIZE))
    {
        return "rois must be " + dimsText({first.d[0], -1, kROI_SIZE}) + ", not " + dimsText(sizesOf(rois)) + ".";
    }
    return roiAlignSizesProblem(sizesOfInputs(inputs));
}

void RoiAlignPlugin::writeOutputShapes(DimsExprs const* inputs, DimsExprs* outputs, IExprBuilder& exprBuilder) const
{
    outputs[0].nbDims = kOUT_RANK;
    outputs[0].d[0] = inputs[kROIS].d[0];
    outputs[0].d[1] = inputs[kROIS].d[1];
    outputs[0].d[2] = exprBuilder.constant(mOutputSize);
    outputs[0].d[3] = exprBuilder.constant(mOutputSize);
    outputs[0].d[4] = inputs[0].d[3];
}

std::vector<int32_t> RoiAlignPlugin::tacticsFor(std::vector<Dims> const& /*inputs*/) const
{
    return {};
}

int32_t RoiAlignPlugin::load()
{
    return loadRoiAlign(elementType(), mKernel);
}

int32_t RoiAlignPlugin::launch(LaunchArguments const& arguments)
{
    RoiAlignPointers pointers;
    std::copy_n(arguments.inputs, kNB_ROI_LEVELS, pointers.features.begin());
    pointers.rois = arguments.inputs[kROIS];
    pointers.out = arguments.outputs[0];
    return launchRoiAlign(mKernel, sizesOfInputs(arguments.shapes), mOutputSize, pointers, arguments.stream);
}

RoiAlignPluginCreator::RoiAlignPluginCreator()
    : PluginCreatorBase{kROI_ALIGN_NAME, {{kOUTPUT_SIZE, nullptr, PluginFieldType::kINT32, 1}}}
{
}

std::unique_ptr<PluginBase> RoiAlignPluginCreator::make(PluginFields const& fields, int32_t elementType) const
{
    int32_t const outputSize = fields.integer(kOUTPUT_SIZE);
    std::string const problem = roiAlignOutputSizeProblem(outputSize);
    if (!problem.empty())
    {
        fields.refuse(problem);
    }
    return std::make_unique<RoiAlignPlugin>(outputSize, elementType);
}

} // namespace rmt_edge
