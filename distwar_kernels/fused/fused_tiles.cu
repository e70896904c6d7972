// The fused rasteriser's tile lists. Visible Gaussians are sorted by depth, their list entries are written in that
// order, and the entries are sorted by tile alone: a stable sort keeps the nearest of each tile first. So the long
// array is sorted by about 13 bits, not by the 45 of tile and depth.
//
// Thread mapping. key_kernel, one thread per splat: the depth's bits as a sort key. list_kernel, one thread per splat
// in depth order: a prefix sum over the numbers of tiles (chained_scan.cuh) says where its entries begin. A small
// footprint is written by its thread, a large one is left to list_large_kernel, one warp per splat, one lane per tile
// of a row: neighbours in depth are often large together (a background, haze), and one warp after the other would write
// them while the rest of the GPU waits. bound_kernel, one thread per entry: where the tile changes, a list begins.
//
// Sorts run over the buffers' capacity, since the host does not know the counts; unused places hold the highest key and
// end up last.
//
// Lower bound, for V visible Gaussians and I entries: 4 passes over 16 V bytes for depth, 2 over 12 I bytes for tiles,
// and 44 V + 6 I for keys and entries, over the memory's bandwidth.
#include <algorithm>

#include "../chained_scan.cuh"
#include "../radix_sort.cuh"
#include "footprint.cuh"

namespace distwar::cuda {
namespace {

constexpr int kSmall = 8;           // tiles that a thread writes by itself
constexpr int kLargeBlocks = 1024;  // enough warps for every GPU, few enough to cost nothing where nothing is large

using TileKey = unsigned short;

// Memory that only the making of lists needs: keys and places on their way through the sorts.
struct Scratch {
    unsigned* scan_words;
    unsigned *depth_keys, *sorted_keys;  // [capacity]
    int *slots, *by_depth;               // [capacity]
    TileKey *tile_keys, *sorted_tiles;   // [list_capacity]
    int* entries;                        // [list_capacity]
    int* large_count;                    // [1]
    int2* large;                         // [capacity], large splats in any order: slot, first entry
    void* sort;
    size_t sort_bytes;
};

// The bits of a positive float rise with it; what is behind the last splat gets the highest key.
__global__ void __launch_bounds__(kThreads) key_kernel(Visible visible, Lists lists, Scratch scratch) {
    const int slot = blockIdx.x * kThreads + threadIdx.x;
    if (slot == 0) lists.counts[0] = *visible.total, lists.counts[1] = 0;
    if (slot >= visible.capacity) return;
    scratch.depth_keys[slot] = slot < visible.held() ? __float_as_uint(visible.depths[slot]) : ~0u;
    scratch.slots[slot] = slot;
}

// Where one Gaussian's entries go.
struct Entries {
    TileKey* tiles;
    int* slots;
    int slot, begin, end;

    __device__ void put(int index, int tile) const {
        if (index >= end) return;
        tiles[index] = tile;
        slots[index] = slot;
    }
    // One row of tiles from entry `index` on; returns the next.
    __device__ int put_row(int index, int first_tile, TileSpan columns) const {
        for (int column = columns.begin; column < columns.end; ++column) put(index++, first_tile + column);
        return index;
    }
};

__device__ void list_alone(const Splat& splat, const TileGrid& grid, const Entries& entries) {
    const Footprint footprint(splat, grid);
    int index = entries.begin;
    for (int row = footprint.first_row; row < footprint.end_row; ++row)
        index = entries.put_row(index, row * grid.width, footprint.row(row));
}

// All lanes write one Gaussian's entries: each works out a row of tiles, then all write one row after the other.
__device__ void list_together(const Splat& splat, const TileGrid& grid, const Entries& entries) {
    const Footprint footprint(splat, grid);
    int begin = entries.begin;
    for (int first = footprint.first_row; first < footprint.end_row; first += kWarpSize) {
        const int mine = first + lane_index(), rows = min(kWarpSize, footprint.end_row - first);
        const TileSpan columns = mine < footprint.end_row ? footprint.row(mine) : TileSpan{0, 0};
        for (int row = 0; row < rows; ++row) {
            const TileSpan span = {__shfl_sync(kFullWarp, columns.begin, row),
                                   __shfl_sync(kFullWarp, columns.end, row)};
            for (int column = lane_index(); column < span.size(); column += kWarpSize)
                entries.put(begin + column, (first + row) * grid.width + span.begin + column);
            begin += span.size();
        }
    }
}

__device__ Splat shape_of(const float* splats, int slot, int& tiles) {
    const float4 first = __ldg(piece_of(splats, slot, kMeanX)), second = __ldg(piece_of(splats, slot, kSkewLow));
    tiles = __float_as_int(second.w);
    return Splat::of_pieces(first, second, {});
}

// Where a splat's `tiles` entries go; what the buffer does not hold is left out.
__device__ Entries entries_of(const Lists& lists, const Scratch& scratch, int slot, int begin, int tiles) {
    return {scratch.tile_keys, scratch.entries, slot, begin, min(begin + tiles, lists.capacity)};
}

// For list_large_kernel; one atomic per warp.
__device__ void keep_large(const Scratch& scratch, bool is_large, int slot, int begin) {
    const unsigned large = __ballot_sync(kFullWarp, is_large);
    if (!large) return;
    int place = lane_index() == 0 ? atomicAdd(scratch.large_count, __popc(large)) : 0;
    place = __shfl_sync(kFullWarp, place, 0) + __popc(large & ((1u << lane_index()) - 1u));
    if (is_large) scratch.large[place] = make_int2(slot, begin);
}

// Footprints are worked out as project_kernel did, but compiled another time: if rounding makes an entry more of one,
// it is left out, if it makes one less, its place stays without a tile.
__global__ void __launch_bounds__(kScanThreads)
    list_kernel(TileGrid grid, Visible visible, Lists lists, Scratch scratch) {
    __shared__ ChainedScan scan;
    const int block = scan.begin(scratch.scan_words), index = block * kScanThreads + threadIdx.x, held = visible.held();
    if (block * kScanThreads >= held) return;  // nobody looks back at these
    int slot = 0, tiles = 0;
    Splat splat = {};
    if (index < held) {
        slot = scratch.by_depth[index];
        splat = shape_of(visible.splats, slot, tiles);
    }
    const int begin = scan.exclusive(scratch.scan_words, tiles);
    if (threadIdx.x == 0 && (block + 1) * kScanThreads >= held) lists.counts[1] = scan.total;
    if (tiles > 0 && tiles <= kSmall) list_alone(splat, grid, entries_of(lists, scratch, slot, begin, tiles));
    keep_large(scratch, tiles > kSmall, slot, begin);
}

// Entries have their places already, so the order in which warps come to the large splats does not matter.
__global__ void __launch_bounds__(kThreads)
    list_large_kernel(TileGrid grid, Visible visible, Lists lists, Scratch scratch) {
    constexpr int kWarps = kThreads / kWarpSize;
    const int count = *scratch.large_count, step = gridDim.x * kWarps;
    for (int index = blockIdx.x * kWarps + threadIdx.x / kWarpSize; index < count; index += step) {
        const int2 large = scratch.large[index];
        int tiles;
        const Splat splat = shape_of(visible.splats, large.x, tiles);
        list_together(splat, grid, entries_of(lists, scratch, large.x, large.y, tiles));
    }
}

__global__ void bound_kernel(const TileKey* tiles_of, int entries, int tiles, int* isect_offsets) {
    const int index = blockIdx.x * blockDim.x + threadIdx.x;
    if (index > entries) return;
    const int before = index > 0 ? min(static_cast<int>(tiles_of[index - 1]), tiles) : -1;
    const int here = index < entries ? min(static_cast<int>(tiles_of[index]), tiles) : tiles;
    for (int tile = before + 1; tile <= here; ++tile) isect_offsets[tile] = index;
}

constexpr int kDepthBits = 32;

// Enough that the highest key of so many bits is no tile's.
int tile_bits(int tiles) {
    int bits = 1;
    while ((1 << bits) <= tiles) ++bits;
    return bits;
}

constexpr size_t kAlignment = 256;  // bytes

// Hands out pieces of one block of memory; with none, only counts.
struct Carver {
    char* memory;
    size_t used = 0;

    template <class T>
    T* take(size_t count) {
        T* piece = memory ? reinterpret_cast<T*>(memory + used) : nullptr;
        used += (count * sizeof(T) + kAlignment - 1) / kAlignment * kAlignment;
        return piece;
    }
};

Scratch carve(Carver& carver, const TileGrid& grid, int capacity, int list_capacity) {
    Scratch s = {};
    s.scan_words = carver.take<unsigned>(ChainedScan::words_for(blocks_for(capacity)));
    s.depth_keys = carver.take<unsigned>(capacity), s.sorted_keys = carver.take<unsigned>(capacity);
    s.slots = carver.take<int>(capacity), s.by_depth = carver.take<int>(capacity);
    s.tile_keys = carver.take<TileKey>(list_capacity), s.sorted_tiles = carver.take<TileKey>(list_capacity);
    s.entries = carver.take<int>(list_capacity);
    s.large_count = carver.take<int>(1), s.large = carver.take<int2>(capacity);
    s.sort_bytes = std::max(sort_bytes<unsigned>(capacity, kDepthBits),
                            sort_bytes<TileKey>(list_capacity, tile_bits(grid.tiles())));
    s.sort = carver.take<char>(s.sort_bytes);
    return s;
}

}  // namespace

size_t list_scratch_bytes(const TileGrid& grid, int capacity, int list_capacity) {
    Carver carver{nullptr};
    carve(carver, grid, capacity, list_capacity);
    return carver.used;
}

void list_splats(const TileGrid& grid, const Visible& visible, const Lists& lists, void* memory, void* stream) {
    const int capacity = visible.capacity, tiles = grid.tiles();
    Carver carver{static_cast<char*>(memory)};
    Scratch s = carve(carver, grid, capacity, lists.capacity);
    fill_bytes(s.scan_words, 0, ChainedScan::words_for(blocks_for(capacity)) * sizeof(unsigned), stream);
    fill_bytes(s.large_count, 0, sizeof(int), stream);
    fill_bytes(s.tile_keys, 0xff, lists.capacity * sizeof(TileKey), stream);

    launch(key_kernel, std::max(blocks_for(capacity), 1), kThreads, stream, visible, lists, s);
    sort_pairs(s.sort, s.sort_bytes, s.depth_keys, s.sorted_keys, s.slots, s.by_depth, capacity, kDepthBits, stream);
    launch(list_kernel, blocks_for(capacity), kScanThreads, stream, grid, visible, lists, s);
    launch(list_large_kernel, std::min(blocks_for(capacity), kLargeBlocks), kThreads, stream, grid, visible, lists, s);
    sort_pairs(s.sort, s.sort_bytes, s.tile_keys, s.sorted_tiles, s.entries, lists.flatten_ids, lists.capacity,
               tile_bits(tiles), stream);
    launch(bound_kernel, blocks_for(lists.capacity + 1), kThreads, stream, static_cast<const TileKey*>(s.sorted_tiles),
           lists.capacity, tiles, lists.isect_offsets);
}

}  // namespace distwar::cuda
