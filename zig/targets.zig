//! Buffers of a guest that are about to be written.

const builtin = @import("builtin");
const copy_file = @import("copy.zig");
const DirtyLog = @import("dirty_log.zig").DirtyLog;
const frame_file = @import("frame.zig");
const frames_max = @import("abi.zig").packets_max;
const NetHeader = @import("spec.zig").NetHeader;
const Segment = @import("chain.zig").Segment;
const Vring = @import("vring.zig").Vring;

const Frame = frame_file.Frame;
const full_header_bytes = @sizeOf(NetHeader);

const line_bytes = 64;
/// Of a buffer so many lines are asked for beforehand; then the processor has seen where it goes.
const fetched_lines_max = 4;

/// Buffers that were taken for frames in one piece, and are still empty. All of a run are looked up, and
/// noted as used, before the first is written: a guest's lines then come from its CPU together. Behind a
/// write that waits for its line all later writes wait; and they leave in order, however they came.
pub const Targets = struct {
    const Target = struct {
        base: [*]u8,
        /// It fits, with its header.
        frame: *const Frame,
    };

    items: [frames_max]Target = undefined,
    count: u32 = 0,

    pub inline fn add(targets: *Targets, base: [*]u8, frame: *const Frame, bytes: u32) void {
        targets.set(targets.count, base, frame, bytes);
        targets.count += 1;
    }

    /// One more, for a frame of so many bytes with its header; it is not counted yet.
    pub inline fn set(targets: *Targets, index: u32, base: [*]u8, frame: *const Frame, bytes: u32) void {
        @setRuntimeSafety(false);
        prefetchForWrite(base);
        inline for (1..fetched_lines_max) |line| {
            if (bytes <= line * line_bytes) break;
            prefetchForWrite(base + line * line_bytes);
        }
        targets.items[index] = .{ .base = base, .frame = frame };
    }

    /// By itself, so that its loop has the registers.
    pub noinline fn fill(targets: *Targets, vring: *Vring) void {
        @setRuntimeSafety(false);
        for (targets.items[0..targets.count]) |target| {
            const frame = target.frame;
            const bytes = full_header_bytes + frame.len;
            if (frame.behind_header and bytes >= copy_file.led_bytes_min) {
                const source = frame.segments[0].base - full_header_bytes;
                copy_file.copyLed(target.base, source, @ptrCast(&frame.header), bytes);
            } else {
                @as(*align(1) NetHeader, @ptrCast(target.base)).* = frame.header;
                frame_file.copySegments(target.base + full_header_bytes, frame.segments);
            }
        }
        if (vring.buffer_log) |log| targets.mark(vring, log);
        targets.count = 0;
    }

    noinline fn mark(targets: *const Targets, vring: *Vring, log: *DirtyLog) void {
        var written: [frames_max]Segment = undefined;
        const items = targets.items[0..targets.count];
        for (items, written[0..items.len]) |target, *segment| {
            segment.* = .{ .base = target.base, .len = full_header_bytes + target.frame.len };
        }
        vring.markBuffers(log, written[0..items.len]);
    }
};

/// Asks for a line to write to. On x86 the builtin asks for one to read where AVX-512 is there.
inline fn prefetchForWrite(line: *const anyopaque) void {
    if (builtin.cpu.arch == .x86_64) {
        asm volatile ("prefetchw (%[line])"
            :
            : [line] "r" (line),
        );
    } else {
        @prefetch(line, .{ .rw = .write });
    }
}
