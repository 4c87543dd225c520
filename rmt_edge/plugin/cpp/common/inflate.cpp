#include "inflate.h"

#include <algorithm>
#include <array>
#include <cstdint>
#include <stdexcept>

namespace rmt_edge
{
namespace
{

// The numbers of RFC 1951, sections 3.2.5 to 3.2.7.
constexpr size_t kMAX_CODE_BITS = 15;
constexpr size_t kMAX_SYMBOLS = 288;
constexpr size_t kNB_FIXED_DISTANCES = 30;
constexpr size_t kNB_LENGTH_SYMBOLS = 19;
constexpr int32_t kEND_OF_BLOCK = 256;
constexpr int32_t kFIRST_LENGTH = 257;
constexpr int32_t kLENGTHS[] = {3, 4, 5, 6, 7, 8, 9, 10, 11, 13, 15, 17, 19, 23, 27, 31, 35, 43, 51, 59, 67, 83, 99, 115,
    131, 163, 195, 227, 258};
constexpr int32_t kLENGTH_BITS[] = {0, 0, 0, 0, 0, 0, 0, 0, 1, 1, 1, 1, 2, 2, 2, 2, 3, 3, 3, 3, 4, 4, 4, 4, 5, 5, 5, 5, 0};
constexpr int32_t kDISTANCES[] = {1, 2, 3, 4, 5, 7, 9, 13, 17, 25, 33, 49, 65, 97, 129, 193, 257, 385, 513, 769, 1025, 1537,
    2049, 3073, 4097, 6145, 8193, 12289, 16385, 24577};
constexpr int32_t kDISTANCE_BITS[]
    = {0, 0, 0, 0, 1, 1, 2, 2, 3, 3, 4, 4, 5, 5, 6, 6, 7, 7, 8, 8, 9, 9, 10, 10, 11, 11, 12, 12, 13, 13};
constexpr size_t kLENGTH_ORDER[kNB_LENGTH_SYMBOLS]
    = {16, 17, 18, 0, 8, 7, 9, 6, 10, 5, 11, 4, 12, 3, 13, 2, 14, 1, 15};

[[noreturn]] void refuse()
{
    throw std::runtime_error{"internal error: a kernel in this library is damaged. Build or copy the library again."};
}

void require(bool condition)
{
    if (!condition)
    {
        refuse();
    }
}

//! Bits of a stream, the lowest of each byte first.
class BitReader
{
public:
    BitReader(unsigned char const* first, size_t nbBytes)
        : mNext(first)
        , mEnd(first + nbBytes)
    {
    }

    int32_t bits(int32_t nbBits)
    {
        while (mNbHeld < nbBits)
        {
            mHeld |= static_cast<uint32_t>(byte()) << mNbHeld;
            mNbHeld += 8;
        }
        int32_t const value = static_cast<int32_t>(mHeld & ((1U << nbBits) - 1U));
        mHeld >>= nbBits;
        mNbHeld -= nbBits;
        return value;
    }

    //! The rest of the current byte is left out; what follows is read by byte().
    void alignToByte()
    {
        mHeld = 0;
        mNbHeld = 0; // below 8: bits() takes no byte before it needs one
    }

    unsigned char byte()
    {
        require(mNext != mEnd);
        return *mNext++;
    }

private:
    unsigned char const* mNext;
    unsigned char const* mEnd;
    uint32_t mHeld{};
    int32_t mNbHeld{};
};

//! A canonical Huffman code, given by the length of each symbol's code word; 0 for a symbol that does not occur.
class HuffmanCode
{
public:
    HuffmanCode(unsigned char const* lengths, size_t nbSymbols)
    {
        for (size_t i = 0; i < nbSymbols; ++i)
        {
            ++mCounts[lengths[i]];
        }
        mCounts[0] = 0;
        std::array<size_t, kMAX_CODE_BITS + 2> starts{};
        for (size_t bits = 1; bits <= kMAX_CODE_BITS; ++bits)
        {
            starts[bits + 1] = starts[bits] + static_cast<size_t>(mCounts[bits]);
        }
        for (size_t i = 0; i < nbSymbols; ++i)
        {
            if (lengths[i] != 0)
            {
                mSymbols[starts[lengths[i]]++] = static_cast<int32_t>(i);
            }
        }
    }

    int32_t next(BitReader& reader) const
    {
        int32_t code = 0;  // what was read, from the first word of its length on
        int32_t index = 0; // of that word's symbol
        for (size_t bits = 1; bits <= kMAX_CODE_BITS; ++bits)
        {
            code |= reader.bits(1);
            if (code < mCounts[bits])
            {
                return mSymbols[static_cast<size_t>(index + code)];
            }
            index += mCounts[bits];
            code = (code - mCounts[bits]) * 2;
        }
        refuse();
    }

private:
    std::array<int32_t, kMAX_CODE_BITS + 1> mCounts{};
    std::array<int32_t, kMAX_SYMBOLS> mSymbols{};
};

void copyStored(BitReader& reader, std::vector<unsigned char>& out, size_t nbBytes)
{
    reader.alignToByte();
    int32_t const length = reader.bits(16);
    require((length ^ reader.bits(16)) == 0xFFFF && out.size() + static_cast<size_t>(length) <= nbBytes);
    for (int32_t i = 0; i < length; ++i)
    {
        out.push_back(reader.byte());
    }
}

void copyEarlier(BitReader& reader, int32_t symbol, HuffmanCode const& distances, std::vector<unsigned char>& out,
    size_t nbBytes)
{
    size_t const row = static_cast<size_t>(symbol - kFIRST_LENGTH);
    require(row < std::size(kLENGTHS));
    size_t const length = static_cast<size_t>(kLENGTHS[row] + reader.bits(kLENGTH_BITS[row]));
    size_t const column = static_cast<size_t>(distances.next(reader));
    require(column < std::size(kDISTANCES));
    size_t const distance = static_cast<size_t>(kDISTANCES[column] + reader.bits(kDISTANCE_BITS[column]));
    require(distance <= out.size() && out.size() + length <= nbBytes);
    for (size_t i = 0; i < length; ++i)
    {
        out.push_back(out[out.size() - distance]); // may overlap what it writes
    }
}

void unpackBlock(BitReader& reader, HuffmanCode const& literals, HuffmanCode const& distances,
    std::vector<unsigned char>& out, size_t nbBytes)
{
    for (int32_t symbol = literals.next(reader); symbol != kEND_OF_BLOCK; symbol = literals.next(reader))
    {
        if (symbol > kEND_OF_BLOCK)
        {
            copyEarlier(reader, symbol, distances, out, nbBytes);
            continue;
        }
        require(out.size() < nbBytes);
        out.push_back(static_cast<unsigned char>(symbol));
    }
}

void unpackFixed(BitReader& reader, std::vector<unsigned char>& out, size_t nbBytes)
{
    std::array<unsigned char, kMAX_SYMBOLS> lengths{};
    std::fill_n(lengths.begin(), 144, 8);
    std::fill_n(lengths.begin() + 144, 112, 9);
    std::fill_n(lengths.begin() + 256, 24, 7);
    std::fill_n(lengths.begin() + 280, 8, 8);
    HuffmanCode const literals{lengths.data(), lengths.size()};
    lengths.fill(5);
    unpackBlock(reader, literals, HuffmanCode{lengths.data(), kNB_FIXED_DISTANCES}, out, nbBytes);
}

void unpackDynamic(BitReader& reader, std::vector<unsigned char>& out, size_t nbBytes)
{
    size_t const nbLiterals = static_cast<size_t>(reader.bits(5)) + 257;
    size_t const nbDistances = static_cast<size_t>(reader.bits(5)) + 1;
    size_t const nbLengths = static_cast<size_t>(reader.bits(4)) + 4;
    require(nbLiterals <= kMAX_SYMBOLS);
    std::array<unsigned char, kNB_LENGTH_SYMBOLS> ofLengths{};
    for (size_t i = 0; i < nbLengths; ++i)
    {
        ofLengths[kLENGTH_ORDER[i]] = static_cast<unsigned char>(reader.bits(3));
    }
    HuffmanCode const lengthCode{ofLengths.data(), ofLengths.size()};
    std::vector<unsigned char> lengths;
    while (lengths.size() < nbLiterals + nbDistances)
    {
        int32_t const symbol = lengthCode.next(reader);
        if (symbol < 16)
        {
            lengths.push_back(static_cast<unsigned char>(symbol));
            continue;
        }
        require(symbol != 16 || !lengths.empty());
        unsigned char const repeated = symbol == 16 ? lengths.back() : 0;
        int32_t const times = symbol == 16 ? 3 + reader.bits(2) : symbol == 17 ? 3 + reader.bits(3) : 11 + reader.bits(7);
        lengths.insert(lengths.end(), static_cast<size_t>(times), repeated);
    }
    require(lengths.size() == nbLiterals + nbDistances);
    HuffmanCode const literals{lengths.data(), nbLiterals};
    unpackBlock(reader, literals, HuffmanCode{lengths.data() + nbLiterals, nbDistances}, out, nbBytes);
}

} // namespace

std::vector<unsigned char> inflate(unsigned char const* packed, size_t nbPackedBytes, size_t nbBytes)
{
    BitReader reader{packed, nbPackedBytes};
    std::vector<unsigned char> out;
    out.reserve(nbBytes);
    for (bool isLast = false; !isLast;)
    {
        isLast = reader.bits(1) != 0;
        switch (reader.bits(2))
        {
        case 0: copyStored(reader, out, nbBytes); break;
        case 1: unpackFixed(reader, out, nbBytes); break;
        case 2: unpackDynamic(reader, out, nbBytes); break;
        default: refuse();
        }
    }
    require(out.size() == nbBytes);
    return out;
}

} // namespace rmt_edge
