//! What stands behind the launcher's own code in the one file: sections, each an LZ4 frame, and at the very
//! end a footer that says where they are. Written by launcher_pack.zig, read by launcher.zig.

const std = @import("std");
const builtin = @import("builtin");
const lz4 = @import("launcher_lz4.zig");

/// The builds of libvring inside, lowest first; their names are those of build/libvring-LEVEL.so.
pub const Level = switch (builtin.cpu.arch) {
    .x86_64 => enum { x86_64_v2, x86_64_v3, x86_64_v4 },
    .aarch64 => enum { aarch64 },
    else => @compileError("no runtime for this architecture"),
};

pub const level_count = std.enums.values(Level).len;

/// The hash guards against bad copies and bad disks, not against people: whoever can write the file can write
/// its footer. So it need not be a cryptographic one, and this one costs 7 ms for the runtime where SHA-256
/// can cost 700.
pub const Hash = std.hash.XxHash64;

pub const Section = extern struct {
    /// Where the frame stands in the file, and its size.
    offset: u64,
    frame_bytes: u64,
    /// Size and hash of its content.
    bytes: u64,
    hash: u64,

    comptime {
        std.debug.assert(@sizeOf(Section) == 32);
    }
};

pub const arguments_bytes_max = 1024;
const magic = "vhostct1".*;

pub const Footer = extern struct {
    /// The Deno executable.
    runtime: Section,
    /// The bundled program.
    application: Section,
    libraries: [level_count]Section,
    /// What Deno is started with, each argument ended by a zero byte. `{library}` and `{application}` stand
    /// for paths.
    arguments: [arguments_bytes_max]u8,
    arguments_bytes: u64,
    /// Differs wherever anything else in the file does.
    build: [16]u8,
    /// Of everything above.
    hash: u64,
    magic: [8]u8,

    comptime {
        std.debug.assert(@sizeOf(Footer) == 32 * (2 + level_count) + arguments_bytes_max + 8 + 16 + 8 + 8);
    }

    pub fn library(footer: *const Footer, level: Level) *const Section {
        return &footer.libraries[@backingInt(level)];
    }

    /// Sets what tells a whole footer from another.
    pub fn seal(footer: *Footer) void {
        footer.magic = magic;
        footer.hash = footer.ownHash();
    }

    fn ownHash(footer: *const Footer) u64 {
        return Hash.hash(0, std.mem.asBytes(footer)[0..@offsetOf(Footer, "hash")]);
    }
};

pub const Error = error{
    /// There is no footer at the end: the file was cut short, or something was added.
    Incomplete,
    Damaged,
};

pub const Payload = struct {
    file: []const u8,
    footer: Footer,

    /// `file` is the whole file and must outlive the payload.
    pub fn init(file: []const u8) Error!Payload {
        if (file.len < @sizeOf(Footer)) return error.Incomplete;
        const footer: Footer = @as(*align(1) const Footer, @ptrCast(file[file.len - @sizeOf(Footer) ..].ptr)).*;
        if (!std.mem.eql(u8, &footer.magic, &magic)) return error.Incomplete;
        if (footer.hash != footer.ownHash()) return error.Damaged;
        if (footer.arguments_bytes > arguments_bytes_max) return error.Damaged;
        return .{ .file = file, .footer = footer };
    }

    pub fn content(payload: *const Payload, section: *const Section) Error!Content {
        const bytes_max = payload.file.len;
        if (section.offset > bytes_max or section.frame_bytes > bytes_max - section.offset) return error.Damaged;
        const frame = payload.file[@intCast(section.offset)..][0..@intCast(section.frame_bytes)];
        return .{ .reader = try .init(frame), .section = section.* };
    }

    pub fn arguments(payload: *const Payload) std.mem.SplitIterator(u8, .scalar) {
        const bytes = payload.footer.arguments[0..@intCast(payload.footer.arguments_bytes)];
        return std.mem.splitScalar(u8, std.mem.trimEnd(u8, bytes, "\x00"), 0);
    }
};

/// The content of a section, block by block, each checked as far as it can be: only the end tells whether the
/// whole is right.
pub const Content = struct {
    reader: lz4.Reader,
    section: Section,
    bytes: u64 = 0,
    hash: Hash = .init(0),

    /// The next block, in `buffer` or in the file; null at the end of content that is as it was packed.
    pub fn next(content: *Content, buffer: *[lz4.buffer_bytes]u8) Error!?[]const u8 {
        if (try content.reader.next(buffer)) |block| {
            content.hash.update(block);
            content.bytes += block.len;
            return block;
        }
        const right = content.bytes == content.section.bytes and content.hash.final() == content.section.hash;
        if (!right) return error.Damaged;
        return null;
    }
};

const testing = std.testing;

/// A file of one section, `content`, behind `offset` other bytes.
fn testFile(offset: usize, plain: []const u8) ![]u8 {
    const frame = try lz4.encode(testing.allocator, plain);
    defer testing.allocator.free(frame);
    var footer: Footer = std.mem.zeroes(Footer);
    footer.runtime = .{ .offset = offset, .frame_bytes = frame.len, .bytes = plain.len, .hash = Hash.hash(0, plain) };
    const arguments = "run\x00--allow-ffi={library}\x00";
    footer.arguments[0..arguments.len].* = arguments.*;
    footer.arguments_bytes = arguments.len;
    footer.seal();
    const file = try testing.allocator.alloc(u8, offset + frame.len + @sizeOf(Footer));
    @memset(file[0..offset], 'E');
    @memcpy(file[offset..][0..frame.len], frame);
    @memcpy(file[offset + frame.len ..], std.mem.asBytes(&footer));
    return file;
}

fn readAll(file: []const u8, buffer: *[lz4.buffer_bytes]u8) !usize {
    const payload: Payload = try .init(file);
    var content = try payload.content(&payload.footer.runtime);
    var bytes: usize = 0;
    while (try content.next(buffer)) |block| bytes += block.len;
    return bytes;
}

test "a section is found again, and the arguments one by one" {
    const buffer = try testing.allocator.create([lz4.buffer_bytes]u8);
    defer testing.allocator.destroy(buffer);
    const file = try testFile(100, "the runtime, the runtime, the runtime");
    defer testing.allocator.free(file);
    try testing.expectEqual(37, try readAll(file, buffer));

    const payload: Payload = try .init(file);
    var arguments = payload.arguments();
    try testing.expectEqualStrings("run", arguments.next().?);
    try testing.expectEqualStrings("--allow-ffi={library}", arguments.next().?);
    try testing.expectEqual(null, arguments.next());
}

test "a file cut anywhere is incomplete, and a changed byte of section or footer damages it" {
    const buffer = try testing.allocator.create([lz4.buffer_bytes]u8);
    defer testing.allocator.destroy(buffer);
    const file = try testFile(100, "the runtime, the runtime, the runtime");
    defer testing.allocator.free(file);
    for (0..file.len) |bytes| try testing.expectError(error.Incomplete, readAll(file[0..bytes], buffer));
    for (100..file.len) |index| {
        file[index] ^= 0x10;
        defer file[index] ^= 0x10;
        const expected: Error = if (index < file.len - 8) error.Damaged else error.Incomplete;
        try testing.expectError(expected, readAll(file, buffer));
    }
}

test "sections that would reach beyond the file are refused" {
    const file = try testFile(0, "the runtime");
    defer testing.allocator.free(file);
    var payload: Payload = try .init(file);
    for ([_][2]u64{
        .{ file.len + 1, 0 },
        .{ 0, file.len + 1 },
        .{ 1, std.math.maxInt(u64) },
        .{ std.math.maxInt(u64), 1 },
    }) |pair| {
        payload.footer.runtime.offset, payload.footer.runtime.frame_bytes = pair;
        try testing.expectError(error.Damaged, payload.content(&payload.footer.runtime));
    }
}
