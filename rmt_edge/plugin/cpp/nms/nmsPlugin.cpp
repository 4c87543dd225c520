#include "nmsPlugin.h"

#include "libraryApi.h"

using namespace nvinfer1;

namespace rmt_edge
{
namespace
{

constexpr char const* kNMS_NAME = "Nms";
//! Inputs.
constexpr int32_t kBOXES = 0;
constexpr int32_t kSCORES = 1;
constexpr int32_t kIDS = 2;
//! Outputs.
constexpr int32_t kOUT_BOXES = 0;
constexpr int32_t kOUT_SCORES = 1;
constexpr int32_t kOUT_IDS = 2;
constexpr int32_t kCOUNT = 3;
constexpr int32_t kBOX_RANK = 3; //!< (b, n, 4)
constexpr int32_t kBOX_SIZE = 4;

PluginTensors tensors()
{
    return {{{"boxes"}, {"scores"}, {"ids", TensorType::kINT32}},
        {{"boxes"}, {"scores"}, {"ids", TensorType::kINT32}, {"count", TensorType::kINT32}}};
}

std::vector<PluginField> fieldsOf(NmsSettings const& settings)
{
    return {{"iou_threshold", &settings.iouThreshold, PluginFieldType::kFLOAT32, 1},
        {"score_threshold", &settings.scoreThreshold, PluginFieldType::kFLOAT32, 1},
        {"max_outputs", &settings.maxOutputs, PluginFieldType::kINT32, 1}};
}

NmsSizes sizesOfBoxes(Dims const& boxes)
{
    return {size32(boxes.d[0]), size32(boxes.d[1])};
}

} // namespace

NmsPlugin::NmsPlugin(NmsSettings const& settings, int32_t elementType)
    : PluginBase{kNMS_NAME, tensors(), elementType}
    , mSettings{settings}
{
}

std::unique_ptr<PluginBase> NmsPlugin::remake() const
{
    return std::make_unique<NmsPlugin>(mSettings, elementType());
}

std::vector<PluginField> NmsPlugin::attributeFields() const
{
    return fieldsOf(mSettings);
}

std::string NmsPlugin::timingKey() const
{
    return "m" + std::to_string(mSettings.maxOutputs);
}

std::string NmsPlugin::elementTypeProblem(int32_t elementType) const
{
    return elementType == RMT_EDGE_FLOAT32 ? "" : "boxes and scores must be float32, whatever the rest of the graph is.";
}

std::string NmsPlugin::shapesProblem(std::vector<Dims> const& inputs) const
{
    Dims const& boxes = inputs[kBOXES];
    if (boxes.nbDims != kBOX_RANK || differs(boxes.d[2], kBOX_SIZE))
    {
        return "boxes must be (b, n, 4), not " + dimsText(sizesOf(boxes)) + ".";
    }
    for (int32_t const input : {kSCORES, kIDS})
    {
        Dims const& given = inputs[static_cast<size_t>(input)];
        if (given.nbDims != kBOX_RANK - 1 || differs(given.d[0], boxes.d[0]) || differs(given.d[1], boxes.d[1]))
        {
            return std::string{input == kSCORES ? "scores" : "ids"} + " must be "
                + dimsText({boxes.d[0], boxes.d[1]}) + ", not " + dimsText(sizesOf(given)) + ".";
        }
    }
    return nmsSizesProblem(sizesOfBoxes(boxes), mSettings.maxOutputs);
}

void NmsPlugin::writeOutputShapes(DimsExprs const* inputs, DimsExprs* outputs, IExprBuilder& exprBuilder) const
{
    for (int32_t const output : {kOUT_SCORES, kOUT_IDS})
    {
        outputs[output].nbDims = kBOX_RANK - 1;
        outputs[output].d[0] = inputs[kBOXES].d[0];
        outputs[output].d[1] = exprBuilder.constant(mSettings.maxOutputs);
    }
    outputs[kOUT_BOXES] = outputs[kOUT_SCORES];
    outputs[kOUT_BOXES].nbDims = kBOX_RANK;
    outputs[kOUT_BOXES].d[2] = exprBuilder.constant(kBOX_SIZE);
    outputs[kCOUNT].nbDims = 1;
    outputs[kCOUNT].d[0] = inputs[kBOXES].d[0];
}

std::vector<int32_t> NmsPlugin::tacticsFor(std::vector<Dims> const& /*inputs*/) const
{
    return {};
}

size_t NmsPlugin::workspaceBytes(std::vector<Dims> const& inputs, int32_t /*elementType*/) const
{
    return nmsWorkspaceBytes(sizesOfBoxes(inputs[kBOXES]));
}

int32_t NmsPlugin::load()
{
    return loadNms(mKernels);
}

int32_t NmsPlugin::launch(LaunchArguments const& arguments)
{
    NmsPointers pointers;
    pointers.boxes = arguments.inputs[kBOXES];
    pointers.scores = arguments.inputs[kSCORES];
    pointers.ids = arguments.inputs[kIDS];
    pointers.outBoxes = arguments.outputs[kOUT_BOXES];
    pointers.outScores = arguments.outputs[kOUT_SCORES];
    pointers.outIds = arguments.outputs[kOUT_IDS];
    pointers.count = arguments.outputs[kCOUNT];
    pointers.workspace = arguments.workspace;
    return launchNms(mKernels, sizesOfBoxes(arguments.shapes[kBOXES]), mSettings, pointers, arguments.stream);
}

NmsPluginCreator::NmsPluginCreator()
    : PluginCreatorBase{kNMS_NAME, fieldsOf({})}
{
}

std::unique_ptr<PluginBase> NmsPluginCreator::make(PluginFields const& fields, int32_t elementType) const
{
    NmsSettings const settings{
        fields.number("iou_threshold"), fields.number("score_threshold"), fields.integer("max_outputs")};
    if (settings.iouThreshold < 0.0F || settings.iouThreshold > 1.0F)
    {
        fields.refuse("iou_threshold is " + std::to_string(settings.iouThreshold) + "; it must be 0 to 1.");
    }
    if (settings.maxOutputs < 1)
    {
        fields.refuse("max_outputs is " + std::to_string(settings.maxOutputs) + "; it must be 1 or more.");
    }
    return std::make_unique<NmsPlugin>(settings, elementType);
}

} // namespace rmt_edge
