//! LZ4, as its frame format 1.6 and block format define it, for the runtime inside the one file: a decoder
//! that trusts nothing it reads, and an encoder that takes its time once, when the file is built.
//!
//! Of all legal frames only one shape is made and read: independent blocks of at most 4 MiB, the size of the
//! content stated, no checksums (the file's footer has its own). `lz4 -d` reads it.

const std = @import("std");

pub const block_bytes_max = 4 << 20;
/// A buffer for one block must be this long: the decoder may write, not keep, so much past the end of its
/// output.
pub const buffer_bytes = block_bytes_max + slack;

const slack = 64;
const stride = 16;
const match_min = 4;
const offset_max = 65535;
/// The last bytes of a block are literals, and no match begins in the last twelve (block format, end of block
/// rules).
const tail_literals = 5;
const tail_match = 12;

const frame_magic: u32 = 0x184D2204;
/// Version 1, independent blocks, content size present; blocks of at most 4 MiB.
const frame_descriptor = [2]u8{ 0b0110_1000, 0b0111_0000 };
const header_bytes = 4 + frame_descriptor.len + 8 + 1;
const stored_flag: u32 = 1 << 31;

pub const Error = error{Damaged};

/// Reads a frame block by block.
pub const Reader = struct {
    rest: []const u8,

    /// `frame` must outlive the reader.
    pub fn init(frame: []const u8) Error!Reader {
        if (frame.len < header_bytes or std.mem.readInt(u32, frame[0..4], .little) != frame_magic) return error.Damaged;
        if (!std.mem.eql(u8, frame[4..6], &frame_descriptor)) return error.Damaged;
        if (frame[header_bytes - 1] != headerCheck(frame[4 .. header_bytes - 1])) return error.Damaged;
        return .{ .rest = frame[header_bytes..] };
    }

    /// The next block, in `buffer` or in the frame itself; null after the last one.
    pub fn next(reader: *Reader, buffer: *[buffer_bytes]u8) Error!?[]const u8 {
        if (reader.rest.len < 4) return error.Damaged;
        const word = std.mem.readInt(u32, reader.rest[0..4], .little);
        reader.rest = reader.rest[4..];
        if (word == 0) return null;
        const bytes = word & ~stored_flag;
        if (bytes > reader.rest.len) return error.Damaged;
        const block = reader.rest[0..bytes];
        reader.rest = reader.rest[bytes..];
        if (word & stored_flag != 0) return block;
        return buffer[0..try decodeBlock(block, buffer)];
    }
};

fn headerCheck(descriptor: []const u8) u8 {
    return @truncate(std.hash.XxHash32.hash(0, descriptor) >> 8);
}

/// Where the decoder stands in its input.
const Input = struct {
    bytes: []const u8,
    at: usize = 0,

    inline fn left(input: *const Input) usize {
        return input.bytes.len - input.at;
    }

    inline fn byte(input: *Input) Error!u8 {
        if (input.left() == 0) return error.Damaged;
        defer input.at += 1;
        return input.bytes[input.at];
    }

    /// A length of 15 goes on in further bytes, up to the first below 255.
    inline fn length(input: *Input, nibble: usize) Error!usize {
        var total = nibble;
        if (nibble < 15) return total;
        while (true) {
            const more = try input.byte();
            total += more;
            if (more < 255) return total;
        }
    }
};

inline fn copyStride(to: [*]u8, from: [*]const u8) void {
    const piece: @Vector(stride, u8) = from[0..stride].*;
    to[0..stride].* = piece;
}

/// Decodes a block and returns the size of its content. Whatever `block` holds, it writes nothing outside
/// `buffer`.
fn decodeBlock(block: []const u8, buffer: *[buffer_bytes]u8) Error!usize {
    var input: Input = .{ .bytes = block };
    var written: usize = 0;
    while (true) {
        const token = try input.byte();
        const literals = try input.length(token >> 4);
        if (literals > input.left() or literals > block_bytes_max - written) return error.Damaged;
        copyLiterals(buffer[written..], input.bytes[input.at..], literals);
        written += literals;
        input.at += literals;
        if (input.left() == 0) return written;

        if (input.left() < 2) return error.Damaged;
        const offset = std.mem.readInt(u16, input.bytes[input.at..][0..2], .little);
        input.at += 2;
        const length = match_min + try input.length(token & 15);
        if (offset == 0 or offset > written or length > block_bytes_max - written) return error.Damaged;
        copyMatch(buffer.ptr + written, offset, length);
        written += length;
    }
}

inline fn copyLiterals(to: []u8, from: []const u8, count: usize) void {
    if (from.len < count + stride) return @memcpy(to[0..count], from[0..count]);
    var done: usize = 0;
    while (true) {
        copyStride(to.ptr + done, from.ptr + done);
        done += stride;
        if (done >= count) return;
    }
}

/// A match may reach into what it writes itself. Where it repeats less than a stride, it is written byte by
/// byte until a whole number of repetitions, a stride or longer, lies behind.
inline fn copyMatch(to: [*]u8, offset: usize, length: usize) void {
    var distance = offset;
    var done: usize = 0;
    if (offset < stride) {
        distance = offset * ((stride + offset - 1) / offset);
        const from = to - offset;
        while (done < distance - offset) : (done += 1) to[done] = from[done];
    }
    const from = to - distance;
    while (done < length) : (done += stride) copyStride(to + done, from + done);
}

/// A frame of `content`, with its blocks encoded by all CPUs. The caller owns it.
pub fn encode(allocator: std.mem.Allocator, content: []const u8) ![]u8 {
    const count = (content.len + block_bytes_max - 1) / block_bytes_max;
    const blocks = try allocator.alloc([]u8, count);
    defer allocator.free(blocks);
    var work: Work = .{ .allocator = allocator, .content = content, .blocks = blocks };
    try work.run();
    defer for (blocks) |block| allocator.free(block);

    var frame: std.ArrayList(u8) = .empty;
    errdefer frame.deinit(allocator);
    var header: [header_bytes]u8 = undefined;
    std.mem.writeInt(u32, header[0..4], frame_magic, .little);
    header[4..6].* = frame_descriptor;
    std.mem.writeInt(u64, header[6..14], content.len, .little);
    header[14] = headerCheck(header[4..14]);
    try frame.appendSlice(allocator, &header);
    for (blocks, 0..) |block, index| {
        const plain = blockOf(content, index);
        const smaller = block.len < plain.len;
        const chosen = if (smaller) block else plain;
        const flag = if (smaller) 0 else stored_flag;
        const word = std.mem.nativeToLittle(u32, @as(u32, @intCast(chosen.len)) | flag);
        try frame.appendSlice(allocator, std.mem.asBytes(&word));
        try frame.appendSlice(allocator, chosen);
    }
    try frame.appendSlice(allocator, &@as([4]u8, @splat(0)));
    return frame.toOwnedSlice(allocator);
}

fn blockOf(content: []const u8, index: usize) []const u8 {
    const start = index * block_bytes_max;
    return content[start..@min(start + block_bytes_max, content.len)];
}

/// The blocks of a frame, taken one after the other by as many threads as there are CPUs.
const Work = struct {
    allocator: std.mem.Allocator,
    content: []const u8,
    blocks: [][]u8,
    taken: std.atomic.Value(usize) = .init(0),
    failed: std.atomic.Value(bool) = .init(false),

    const threads_max = 16;

    fn run(work: *Work) !void {
        @memset(work.blocks, &.{});
        errdefer for (work.blocks) |block| work.allocator.free(block);
        var threads: [threads_max]std.Thread = undefined;
        const wanted = @min(std.Thread.getCpuCount() catch 1, threads_max, work.blocks.len);
        var started: usize = 0;
        while (started + 1 < wanted) : (started += 1) {
            threads[started] = std.Thread.spawn(.{}, take, .{work}) catch break;
        }
        take(work);
        for (threads[0..started]) |thread| thread.join();
        if (work.failed.load(.acquire)) return error.OutOfMemory;
    }

    fn take(work: *Work) void {
        const encoder = Encoder.create(work.allocator) catch return work.failed.store(true, .release);
        defer encoder.destroy(work.allocator);
        while (true) {
            const index = work.taken.fetchAdd(1, .acq_rel);
            if (index >= work.blocks.len) return;
            work.blocks[index] = encoder.block(work.allocator, blockOf(work.content, index)) catch
                return work.failed.store(true, .release);
        }
    }
};

/// Finds the longest match at each position through chains of equal hashes, then chooses from the end of the
/// block backwards the cheapest way to each position: all matches of one length cost the same, so the longest
/// stands for all.
const Encoder = struct {
    heads: [1 << hash_bits]u32,
    chain: [offset_max + 1]u32,
    matches: [block_bytes_max]Match,
    /// Bytes that the block takes from a position on, and the run of literals that begins there.
    costs: [block_bytes_max + 1]u32,
    runs: [block_bytes_max + 1]u32,

    const hash_bits = 16;
    const none = std.math.maxInt(u32);
    /// How many earlier positions are tried; more gives little.
    const attempts_max = 128;
    /// A match of this length is taken as it is.
    const length_enough = 256;

    const Match = struct { length: u32 = 0, offset: u16 = 0 };

    fn create(allocator: std.mem.Allocator) !*Encoder {
        return allocator.create(Encoder);
    }

    fn destroy(encoder: *Encoder, allocator: std.mem.Allocator) void {
        allocator.destroy(encoder);
    }

    fn block(encoder: *Encoder, allocator: std.mem.Allocator, plain: []const u8) ![]u8 {
        encoder.findMatches(plain);
        encoder.choose(plain.len);
        return encoder.write(allocator, plain);
    }

    fn hash(bytes: *const [4]u8) usize {
        return (std.mem.readInt(u32, bytes, .little) *% 2654435761) >> (32 - hash_bits);
    }

    fn findMatches(encoder: *Encoder, plain: []const u8) void {
        @memset(&encoder.heads, none);
        @memset(encoder.matches[0..plain.len], .{});
        if (plain.len <= tail_match) return;
        var previous: Match = .{};
        for (0..plain.len - tail_match) |at| {
            const slot = hash(plain[at..][0..4]);
            encoder.chain[at & offset_max] = encoder.heads[slot];
            encoder.heads[slot] = @intCast(at);
            previous = if (previous.length > length_enough)
                .{ .length = previous.length - 1, .offset = previous.offset }
            else
                encoder.longest(plain, at);
            encoder.matches[at] = previous;
        }
    }

    fn longest(encoder: *const Encoder, plain: []const u8, at: usize) Match {
        const end = plain.len - tail_literals;
        var best: Match = .{};
        var candidate = encoder.chain[at & offset_max];
        for (0..attempts_max) |_| {
            if (candidate == none or at - candidate > offset_max) break;
            if (at + best.length < end and plain[candidate + best.length] == plain[at + best.length]) {
                const length = common(plain, candidate, at, end);
                if (length >= match_min and length > best.length) {
                    best = .{ .length = @intCast(length), .offset = @intCast(at - candidate) };
                    if (length > length_enough) break;
                }
            }
            candidate = encoder.chain[candidate & offset_max];
        }
        return best;
    }

    fn common(plain: []const u8, first: usize, second: usize, end: usize) usize {
        var length: usize = 0;
        while (second + length + 8 <= end) : (length += 8) {
            const difference = std.mem.readInt(u64, plain[first + length ..][0..8], .little) ^
                std.mem.readInt(u64, plain[second + length ..][0..8], .little);
            if (difference != 0) return length + @ctz(difference) / 8;
        }
        while (second + length < end and plain[first + length] == plain[second + length]) length += 1;
        return length;
    }

    /// Further bytes of a length that does not fit its half of the token.
    fn extension(length: usize) u32 {
        return if (length < 15) 0 else @intCast((length - 15) / 255 + 1);
    }

    fn choose(encoder: *Encoder, bytes: usize) void {
        encoder.costs[bytes] = 0;
        encoder.runs[bytes] = 0;
        var at = bytes;
        while (at > 0) {
            at -= 1;
            const run = encoder.runs[at + 1];
            var cost = encoder.costs[at + 1] + 1 + extension(run + 1) - extension(run);
            var chosen: u32 = 0;
            const match = &encoder.matches[at];
            if (match.length > 0) {
                const from = if (match.length > length_enough) match.length else match_min;
                for (from..match.length + 1) |length| {
                    const other = encoder.costs[at + length] + 3 + extension(length - match_min);
                    if (other > cost) continue;
                    cost = other;
                    chosen = @intCast(length);
                }
            }
            encoder.costs[at] = cost;
            encoder.runs[at] = if (chosen == 0) run + 1 else 0;
            match.length = chosen;
        }
    }

    fn write(encoder: *const Encoder, allocator: std.mem.Allocator, plain: []const u8) ![]u8 {
        var output: std.ArrayList(u8) = try .initCapacity(allocator, encoder.costs[0] + 32);
        errdefer output.deinit(allocator);
        var at: usize = 0;
        while (true) {
            const literals = encoder.runs[at];
            const match = if (at + literals < plain.len) encoder.matches[at + literals] else Match{};
            const beyond = if (match.length == 0) 0 else match.length - match_min;
            try output.append(allocator, @as(u8, @min(literals, 15)) << 4 | @min(beyond, 15));
            try writeLength(&output, allocator, literals);
            try output.appendSlice(allocator, plain[at..][0..literals]);
            at += literals;
            if (at == plain.len) return output.toOwnedSlice(allocator);
            try output.appendSlice(allocator, std.mem.asBytes(&std.mem.nativeToLittle(u16, match.offset)));
            try writeLength(&output, allocator, beyond);
            at += match.length;
        }
    }

    fn writeLength(output: *std.ArrayList(u8), allocator: std.mem.Allocator, length: usize) !void {
        if (length < 15) return;
        var rest = length - 15;
        while (rest >= 255) : (rest -= 255) try output.append(allocator, 255);
        try output.append(allocator, @intCast(rest));
    }
};

const testing = std.testing;

/// Returns the size of the frame.
fn expectRoundTrip(content: []const u8) !usize {
    const frame = try encode(testing.allocator, content);
    defer testing.allocator.free(frame);
    const buffer = try testing.allocator.create([buffer_bytes]u8);
    defer testing.allocator.destroy(buffer);
    var reader: Reader = try .init(frame);
    var at: usize = 0;
    while (try reader.next(buffer)) |block| {
        try testing.expectEqualSlices(u8, content[at..][0..block.len], block);
        at += block.len;
    }
    try testing.expectEqual(content.len, at);
    try testing.expectEqual(0, reader.rest.len);
    return frame.len;
}

/// Bytes as programs have them: pieces seen before, from near and far, between new ones.
fn fillRepetitive(random: std.Random, content: []u8) void {
    var at: usize = 0;
    while (at < content.len) {
        const left = content.len - at;
        const count = @min(left, 1 + random.uintLessThan(usize, 40));
        if (at == 0 or random.uintLessThan(u8, 3) == 0) {
            for (content[at..][0..count]) |*byte| byte.* = random.uintLessThan(u8, 16);
        } else {
            const distance = 1 + random.uintLessThan(usize, if (random.boolean()) @min(at, 20) else at);
            for (at..at + count) |index| content[index] = content[index - distance];
        }
        at += count;
    }
}

test "content of every size near the limits of the format comes back" {
    const encoder = try Encoder.create(testing.allocator);
    defer encoder.destroy(testing.allocator);
    const buffer = try testing.allocator.create([buffer_bytes]u8);
    defer testing.allocator.destroy(buffer);
    var prng: std.Random.DefaultPrng = .init(1);
    var content: [600]u8 = undefined;
    for (1..content.len) |bytes| {
        fillRepetitive(prng.random(), content[0..bytes]);
        const block = try encoder.block(testing.allocator, content[0..bytes]);
        defer testing.allocator.free(block);
        try testing.expectEqualSlices(u8, content[0..bytes], buffer[0..try decodeBlock(block, buffer)]);
    }
    try testing.expectEqual(header_bytes + 4, try expectRoundTrip(""));
}

test "content of several blocks comes back, be it equal, random or repetitive, and shrinks where it can" {
    const content = try testing.allocator.alloc(u8, block_bytes_max + 70_000);
    defer testing.allocator.free(content);
    var prng: std.Random.DefaultPrng = .init(2);

    @memset(content, 7);
    try testing.expect(try expectRoundTrip(content) < content.len / 250);
    fillRepetitive(prng.random(), content);
    try testing.expect(try expectRoundTrip(content) < content.len / 5 * 3);
    prng.random().bytes(content);
    try testing.expectEqual(header_bytes + 4 + 4 + 4 + content.len, try expectRoundTrip(content));
}

test "a damaged block is refused or gives other bytes, and nothing outside the buffer is touched" {
    const linux = std.os.linux;
    const page = std.heap.page_size_min;
    const pages = std.mem.alignForward(usize, buffer_bytes, page);
    const area = try std.heap.page_allocator.alignedAlloc(u8, .fromByteUnits(page), pages + page);
    defer std.heap.page_allocator.free(area);
    // The buffer ends where memory ends: a byte written beyond it is a fault.
    _ = linux.mprotect(area.ptr + pages, page, .{});
    defer _ = linux.mprotect(area.ptr + pages, page, .{ .READ = true, .WRITE = true });
    const buffer = area[pages - buffer_bytes ..][0..buffer_bytes];

    var prng: std.Random.DefaultPrng = .init(3);
    const random = prng.random();
    var content: [3000]u8 = undefined;
    fillRepetitive(random, &content);
    const frame = try encode(testing.allocator, &content);
    defer testing.allocator.free(frame);
    const block = frame[header_bytes + 4 .. frame.len - 4];
    const damaged = try testing.allocator.alloc(u8, block.len);
    defer testing.allocator.free(damaged);
    var refused: usize = 0;
    for (0..20_000) |_| {
        @memcpy(damaged, block);
        for (0..1 + random.uintLessThan(usize, 8)) |_| damaged[random.uintLessThan(usize, block.len)] = random.int(u8);
        const kept = damaged[0 .. damaged.len - random.uintLessThan(usize, 4)];
        _ = decodeBlock(kept, buffer) catch {
            refused += 1;
        };
    }
    try testing.expect(refused > 1000);
}

test "lengths that would fill the buffer many times over are refused" {
    const buffer = try testing.allocator.create([buffer_bytes]u8);
    defer testing.allocator.destroy(buffer);
    const huge = try testing.allocator.alloc(u8, 100_000);
    defer testing.allocator.free(huge);
    @memset(huge, 255);
    try testing.expectError(error.Damaged, decodeBlock(huge, buffer));
    // One literal, then a match of 255 * 99,000 bytes.
    huge[0..4].* = .{ 0x1f, 'x', 1, 0 };
    huge[huge.len - 1] = 0;
    try testing.expectError(error.Damaged, decodeBlock(huge, buffer));
    // A match that would begin before the content.
    try testing.expectError(error.Damaged, decodeBlock(&.{ 0x10, 'x', 2, 0, 0x50, 'a', 'b', 'c', 'd', 'e' }, buffer));
}

fn readAll(frame: []const u8, buffer: *[buffer_bytes]u8) !void {
    var reader: Reader = try .init(frame);
    while (try reader.next(buffer)) |_| {}
}

test "a frame of another shape, or cut short, is refused" {
    const frame = try encode(testing.allocator, "some content, some content, some content");
    defer testing.allocator.free(frame);
    const buffer = try testing.allocator.create([buffer_bytes]u8);
    defer testing.allocator.destroy(buffer);
    for (0..frame.len) |bytes| {
        try testing.expectError(error.Damaged, readAll(frame[0..bytes], buffer));
    }
    try readAll(frame, buffer);
    for (0..header_bytes) |index| {
        frame[index] ^= 1;
        try testing.expectError(error.Damaged, readAll(frame, buffer));
        frame[index] ^= 1;
    }
}
