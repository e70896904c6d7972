// The threads of a block as fibers: one thread of the operating system runs them in turn, each until it waits for
// others.
//
// Passing from one to the next takes neither a lock nor a call of the system, so a barrier costs some 30 ns. The order
// changes from barrier to barrier, in the same way at every launch: threads go forwards or backwards, and between two
// barriers of the block either all warps keep pace or one runs ahead as far as it can. So of two threads between which
// a barrier is missing, each is sometimes the first. A barrier that some threads never reach is an error.
#pragma once

#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <map>
#include <mutex>
#include <new>
#include <stdexcept>
#include <string>
#include <vector>

#if !defined(__ELF__) || !(defined(__x86_64__) || defined(__aarch64__))
#define EMULATE_WITH_UCONTEXT
#endif
#ifdef EMULATE_WITH_UCONTEXT
#include <ucontext.h>
#endif

#pragma GCC visibility push(hidden)
#ifndef EMULATE_WITH_UCONTEXT
// emulator_switch(save, top) pushes the registers that a callee must preserve, keeps the stack's top in `*save` and
// goes on from a top that was kept before. kFrame: the words it pushes; kEntry: which of them it returns to.
asm(".pushsection .text\n .balign 16\n .weak emulator_switch\n .hidden emulator_switch\n"
    ".type emulator_switch, %function\n emulator_switch:\n"
#ifdef __x86_64__  // System V ABI: rbx, rbp, r12 to r15
    R"(
    pushq %rbp
    pushq %rbx
    pushq %r12
    pushq %r13
    pushq %r14
    pushq %r15
    movq %rsp, (%rdi)
    movq %rsi, %rsp
    popq %r15
    popq %r14
    popq %r13
    popq %r12
    popq %rbx
    popq %rbp
    ret
    )"
#else  // AAPCS64: x19 to x30, d8 to d15
    R"(
    sub sp, sp, #160
    stp x19, x20, [sp, #0]
    stp x21, x22, [sp, #16]
    stp x23, x24, [sp, #32]
    stp x25, x26, [sp, #48]
    stp x27, x28, [sp, #64]
    stp x29, x30, [sp, #80]
    stp d8, d9, [sp, #96]
    stp d10, d11, [sp, #112]
    stp d12, d13, [sp, #128]
    stp d14, d15, [sp, #144]
    mov x9, sp
    str x9, [x0]
    mov sp, x1
    ldp x19, x20, [sp, #0]
    ldp x21, x22, [sp, #16]
    ldp x23, x24, [sp, #32]
    ldp x25, x26, [sp, #48]
    ldp x27, x28, [sp, #64]
    ldp x29, x30, [sp, #80]
    ldp d8, d9, [sp, #96]
    ldp d10, d11, [sp, #112]
    ldp d12, d13, [sp, #128]
    ldp d14, d15, [sp, #144]
    add sp, sp, #160
    ret
    )"
#endif
    ".size emulator_switch, .-emulator_switch\n .popsection");
extern "C" void emulator_switch(void** save, void* top);

namespace emulator {

#ifdef __x86_64__
constexpr int kFrame = 8, kEntry = 6;  // the last one is where `entry` would return to
#else
constexpr int kFrame = 20, kEntry = 11;
#endif

struct Context {
    // Goes on with `entry`, on an empty stack of so many bytes before `end`. It never returns.
    void prepare(char* end, size_t, void (*entry)()) {
        void** words = reinterpret_cast<void**>(reinterpret_cast<uintptr_t>(end) & ~uintptr_t{15}) - kFrame;
        std::fill_n(words, kFrame, nullptr);
        words[kEntry] = reinterpret_cast<void*>(entry);
        top_ = words;
    }
    void switch_to(Context& other) { emulator_switch(&top_, other.top_); }

   private:
    void* top_ = nullptr;
};

}  // namespace emulator
#else
namespace emulator {

struct Context {
    void prepare(char* end, size_t bytes, void (*entry)()) {
        getcontext(&state_);
        state_.uc_stack.ss_sp = end - bytes, state_.uc_stack.ss_size = bytes, state_.uc_link = nullptr;
        makecontext(&state_, entry, 0);
    }
    void switch_to(Context& other) { swapcontext(&state_, &other.state_); }

   private:
    ucontext_t state_;
};

}  // namespace emulator
#endif

inline Index threadIdx, blockIdx;

namespace emulator {

// The memory of the fibers' stacks, kept from launch to launch. Before each is a page that may not be touched: whoever
// needs more ends there.
class Stacks {
   public:
    void prepare(int index, Context& context, void (*entry)()) {
        while (static_cast<int>(ends_.size()) <= index) ends_.push_back(allocate());
        // Stacks are pages apart; if the distance were a multiple of a page's size, they would share few cache lines.
        const size_t unused = index % 32 * 320;
        context.prepare(ends_[index] - unused, kBytes - unused, entry);
    }

   private:
    static constexpr size_t kBytes = 128 << 10;
    std::vector<char*> ends_;

    static char* allocate() {
        const size_t page = sysconf(_SC_PAGESIZE);
        void* memory = mmap(nullptr, page + kBytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        if (memory == MAP_FAILED || mprotect(memory, page, PROT_NONE) != 0) throw std::bad_alloc();
        return static_cast<char*>(memory) + page + kBytes;
    }
};

// Threads that meet again and again. What they bring is kept apart from what they bring the next time: it can still be
// read then, by those who go on later.
struct Meeting {
    int arrived = 0, turn = 0;
    uint32_t words[2][kLanes];   // by lane
    uint32_t votes[2] = {0, 0};  // all lanes' votes or'd

    void open() { arrived = 0, votes[++turn % 2] = 0; }
};

struct Warp {
    Meeting whole;
    std::map<unsigned, Meeting> parts;  // by mask

    Meeting& of(unsigned mask) { return mask == ~0u ? whole : parts[mask]; }
};

// The threads of the block that runs, and who of them can go on.
class Block {
   public:
    void run(int threads, void (*kernel)(void*), void* argument) {
        kernel_ = kernel, argument_ = argument, alive_ = threads, order_ = blockIdx.x;
        fibers_.resize(threads), ready_.resize(threads), first_ready_ = ready_count_ = 0;
        problem_.clear(), ended_.assign(threads, false), all_ = {}, warps_.assign((threads + kLanes - 1) / kLanes, {});
        for (int i = 0; i < threads; ++i) stacks_.prepare(i, fibers_[i], begin);
        release_block([](int) { return true; });
        leave(main_);
        if (alive_ == 0) return;
        const auto number = [](int n) { return std::to_string(n); };
        if (problem_.empty())
            problem_ = number(alive_) + " of " + number(threads) + " threads wait for others that do not come";
        throw std::runtime_error("block " + number(blockIdx.x) + ": " + problem_);
    }

    // Waits for all threads that have not ended; returns their votes or'd.
    uint32_t meet_all(uint32_t vote) {
        const int turn = all_.turn % 2;
        all_.votes[turn] |= vote, ++all_.arrived;
        if (!open_if_complete()) leave(fibers_[threadIdx.x]);
        return all_.votes[turn];
    }

    struct Brought {
        const uint32_t* words;
        uint32_t votes;
    };

    // Waits for the lanes of a warp that are in the mask; returns what they have brought.
    Brought meet(unsigned mask, uint32_t word, uint32_t vote) {
        const int lane = threadIdx.x % kLanes, first = threadIdx.x - lane;
        if (!(mask >> lane & 1)) fail("a thread is not in the mask of the lanes that it waits for");
        Meeting& meeting = warps_[threadIdx.x / kLanes].of(mask);
        const int turn = meeting.turn % 2;
        meeting.words[turn][lane] = word, meeting.votes[turn] |= vote;
        if (++meeting.arrived < __builtin_popcount(mask)) {
            leave(fibers_[threadIdx.x]);
        } else {
            meeting.open();
            release(first, first + kLanes, [=](int i) { return i != first + lane && mask >> (i - first) & 1; });
        }
        return {meeting.words[turn], meeting.votes[turn]};
    }

   private:
    void (*kernel_)(void*);
    void* argument_;
    int alive_;
    std::vector<Context> fibers_;
    std::vector<char> ended_;
    Context main_;
    Stacks stacks_;
    Meeting all_;
    std::vector<Warp> warps_;
    std::vector<int> ready_;  // a ring: ready_count_ of them from first_ready_ on
    int first_ready_, ready_count_;
    bool newest_first_;
    uint32_t order_;
    std::string problem_;

    static void begin();

    // All of a fiber's life.
    void live() {
        kernel_(argument_);
        ended_[threadIdx.x] = true, --alive_;
        open_if_complete();
        leave(fibers_[threadIdx.x]);
    }

    bool open_if_complete() {
        if (alive_ == 0 || all_.arrived < alive_) return false;
        all_.open();
        const int self = threadIdx.x;
        release_block([=, this](int i) { return i != self && !ended_[i]; });
        return true;
    }

    template <class F>
    void release_block(F who) {
        release(0, static_cast<int>(fibers_.size()), who);
        newest_first_ = order_ >> 30 & 1;
    }

    // Lets those from `begin` to `end` go on for whom `who` is true.
    template <class F>
    void release(int begin, int end, F who) {
        order_ = order_ * 1664525u + 1013904223u;
        if (order_ >> 31)
            for (int i = begin; i < end; ++i) who(i) ? push(i) : void();
        else
            for (int i = end; i-- > begin;) who(i) ? push(i) : void();
    }
    void push(int index) { ready_[place(ready_count_++)] = index; }
    int place(int number) const {
        const int place = first_ready_ + number, size = static_cast<int>(ready_.size());
        return place < size ? place : place - size;
    }

    // Ends the launch: an exception cannot leave a fiber.
    void fail(const char* problem) {
        problem_ = problem;
        fibers_[threadIdx.x].switch_to(main_);
    }

    // From this fiber to the next that can go on. Where none can, all have ended or none ever will.
    void leave(Context& self) {
        if (ready_count_ == 0) return self.switch_to(main_);
        --ready_count_;
        const int next = ready_[newest_first_ ? place(ready_count_) : first_ready_];
        if (!newest_first_) first_ready_ = place(1);
        threadIdx.x = next;
        self.switch_to(fibers_[next]);
    }
};

inline Block block;
inline std::mutex launching;

inline void Block::begin() { block.live(); }

template <class F>
void run_blocks(int blocks, int threads, F& kernel) {
    const std::lock_guard lock(launching);
    for (blockIdx.x = 0; blockIdx.x < blocks; ++blockIdx.x)
        block.run(threads, [](void* f) { (*static_cast<F*>(f))(); }, &kernel);
}

// True if it is for any thread of the block that has not ended.
inline bool any_of_block(bool value) { return block.meet_all(value) != 0; }

inline void meet(unsigned mask) { block.meet(mask, 0, 0); }

inline unsigned ballot(unsigned mask, bool value) {
    return block.meet(mask, 0, value ? 1u << threadIdx.x % kLanes : 0).votes;
}

// What `f` makes of the words of the lanes in the mask.
template <class F>
auto exchange(unsigned mask, uint32_t word, F f) {
    return f(block.meet(mask, word, 0).words);
}

}  // namespace emulator
#pragma GCC visibility pop
