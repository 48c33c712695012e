//! A guest's memory, twice: as it is, and as it has to be. Whatever the device writes and the fuzzer did
//! not foresee is a difference, and so is what it fails to write.
//!
//! The memory is a file; the guest sees the whole of it, the device only the places that it was told.
//! What lies between them, down to single bytes, nobody may write.

const std = @import("std");
const abi = @import("abi.zig");
const fault = @import("fault.zig");
const memory_file = @import("memory.zig");
const Run = @import("fuzz_run.zig").Run;
const sys = @import("sys.zig");

const allocator = std.heap.c_allocator;

/// Bytes of the file that the device sees at a guest address.
pub const Place = struct {
    gpa: u64,
    size: u64,
    offset: u64,

    fn region(place: Place) abi.Region {
        return .{ .gpa = place.gpa, .size_bytes = place.size, .mmap_offset = place.offset };
    }
};

/// A range of the file.
pub const Piece = struct { offset: u64, len: u64 };

pub const Guest = struct {
    file: i32,
    bytes: []align(std.heap.page_size_min) u8,
    expected: []u8,
    places: []const Place,

    pub fn init(guest: *Guest, run: *Run, places: []const Place, file_bytes: u64) void {
        guest.places = places;
        guest.file = sys.memoryFile("fuzz", file_bytes) catch run.fail("no memory file", .{});
        guest.bytes = sys.mapShared(guest.file, 0, file_bytes) catch run.fail("no mapping", .{});
        guest.expected = allocator.alloc(u8, file_bytes) catch run.fail("no memory", .{});
        run.random.fill(guest.bytes);
        guest.accept();
    }

    /// All places mapped anew for the device, in an order of chance.
    pub fn table(guest: *const Guest, run: *Run, faults: *fault.Counter) *memory_file.Table {
        const made = memory_file.Table.create() catch run.fail("no memory", .{});
        const first = run.random.below(guest.places.len);
        for (0..guest.places.len) |i| {
            const place = guest.places[(first + i) % guest.places.len];
            made.add(place.region(), guest.file, faults) catch |reason| run.fail("a region is refused: {t}", .{reason});
        }
        return made;
    }

    /// Where the first of `len` bytes at `gpa` lies, and how many follow it there; at most `len`.
    pub fn find(guest: *const Guest, gpa: u64, len: u64) ?Piece {
        for (guest.places) |place| {
            if (gpa < place.gpa or gpa - place.gpa >= place.size) continue;
            const inside = gpa - place.gpa;
            return .{ .offset = place.offset + inside, .len = @min(len, place.size - inside) };
        }
        return null;
    }

    /// What has to be there. False: not all of it is mapped.
    pub fn read(guest: *const Guest, gpa: u64, into: []u8) bool {
        var done: usize = 0;
        while (done < into.len) {
            const at = std.math.add(u64, gpa, done) catch return false;
            const piece = guest.find(at, into.len - done) orelse return false;
            @memcpy(into[done..][0..piece.len], guest.expected[piece.offset..][0..piece.len]);
            done += piece.len;
        }
        return true;
    }

    pub fn number(guest: *const Guest, comptime T: type, gpa: u64) T {
        var raw: [@sizeOf(T)]u8 = undefined;
        std.debug.assert(guest.read(gpa, &raw));
        return std.mem.readInt(T, &raw, .little);
    }

    /// The guest writes; what is not mapped is left out.
    pub fn write(guest: *Guest, gpa: u64, from: []const u8) void {
        guest.put(gpa, from, true);
    }

    pub fn writeNumber(guest: *Guest, comptime T: type, gpa: u64, value: T) void {
        var raw: [@sizeOf(T)]u8 = undefined;
        std.mem.writeInt(T, &raw, value, .little);
        guest.put(gpa, &raw, true);
    }

    /// The device will have to write.
    pub fn foresee(guest: *Guest, gpa: u64, from: []const u8) void {
        guest.put(gpa, from, false);
    }

    pub fn foreseeNumber(guest: *Guest, comptime T: type, gpa: u64, value: T) void {
        var raw: [@sizeOf(T)]u8 = undefined;
        std.mem.writeInt(T, &raw, value, .little);
        guest.put(gpa, &raw, false);
    }

    fn put(guest: *Guest, gpa: u64, from: []const u8, now: bool) void {
        var done: usize = 0;
        while (done < from.len) {
            const piece = guest.find(gpa +% done, from.len - done) orelse {
                done += 1;
                continue;
            };
            @memcpy(guest.expected[piece.offset..][0..piece.len], from[done..][0..piece.len]);
            if (now) @memcpy(guest.bytes[piece.offset..][0..piece.len], from[done..][0..piece.len]);
            done += piece.len;
        }
    }

    /// Everything is as foreseen.
    pub fn check(guest: *const Guest, run: *const Run) void {
        if (same(guest.bytes, guest.expected)) return;
        for (guest.bytes, guest.expected, 0..) |is, must, offset| {
            if (is != must) run.fail("guest memory: offset {x} holds {x}, not {x}", .{ offset, is, must });
        }
    }

    /// What belongs to no place is untouched; for when not all could be foreseen.
    pub fn checkBetween(guest: *const Guest, run: *const Run) void {
        for (guest.bytes, guest.expected, 0..) |is, must, offset| {
            if (is == must or guest.isInside(offset)) continue;
            run.fail("beyond guest memory: offset {x} holds {x}, not {x}", .{ offset, is, must });
        }
    }

    fn isInside(guest: *const Guest, offset: usize) bool {
        for (guest.places) |place| {
            if (offset >= place.offset and offset - place.offset < place.size) return true;
        }
        return false;
    }

    /// Takes what is there for right.
    pub fn accept(guest: *Guest) void {
        @memcpy(guest.expected, guest.bytes);
    }
};

/// As `std.mem.eql`, in wide steps: most of what a fuzzer does is this.
pub fn same(first: []const u8, second: []const u8) bool {
    if (first.len != second.len) return false;
    const Wide = @Vector(128, u8);
    var at: usize = 0;
    while (at + 128 <= first.len) : (at += 128) {
        const one: Wide = first[at..][0..128].*;
        const two: Wide = second[at..][0..128].*;
        if (@reduce(.Or, one ^ two) != 0) return false;
    }
    return std.mem.eql(u8, first[at..], second[at..]);
}

/// As `std.mem.allEqual`, in wide steps.
pub fn isAll(bytes: []const u8, value: u8) bool {
    const Wide = @Vector(128, u8);
    const wanted: Wide = @splat(value);
    var at: usize = 0;
    while (at + 128 <= bytes.len) : (at += 128) {
        const some: Wide = bytes[at..][0..128].*;
        if (@reduce(.Or, some ^ wanted) != 0) return false;
    }
    return std.mem.allEqual(u8, bytes[at..], value);
}
