//! Looks whether all that a device writes into a guest's memory is marked in the guest's dirty log.

const std = @import("std");
const dirty_log = @import("dirty_log.zig");
const Run = @import("fuzz_run.zig").Run;
const sys = @import("sys.zig");

const page_bytes = dirty_log.page_bytes;

pub const Audit = struct {
    log: *dirty_log.DirtyLog,
    /// Of the guest, from guest address `gpa` on, and as it was.
    bytes: []const u8,
    image: []u8,
    gpa: u64,

    pub fn create(run: *Run, bytes: []const u8, gpa: u64) Audit {
        const size = (gpa + bytes.len) / page_bytes / 8 + 1;
        const file = sys.memoryFile("log", size) catch run.fail("no memory file", .{});
        defer sys.close(file);
        return .{
            .log = dirty_log.DirtyLog.create(file, 0, size) catch run.fail("no log", .{}),
            .bytes = bytes,
            .image = std.heap.page_allocator.alloc(u8, bytes.len) catch run.fail("no memory", .{}),
            .gpa = gpa,
        };
    }

    /// From here on only the device writes.
    pub fn begin(audit: *Audit) void {
        @memcpy(audit.image, audit.bytes);
        @memset(audit.log.bits[audit.gpa / page_bytes / 8 ..], 0);
    }

    /// `wanted`: the front end wants marks; else there are none.
    pub fn finish(audit: *Audit, run: *const Run, wanted: bool) void {
        const bits = audit.log.bits[audit.gpa / page_bytes / 8 ..];
        if (!wanted) return run.expect(std.mem.allEqual(u8, bits, 0), "marks that nobody wants", .{});
        var at: usize = 0;
        while (at < audit.bytes.len) : (at += page_bytes) {
            const end = @min(at + page_bytes, audit.bytes.len);
            if (std.mem.eql(u8, audit.bytes[at..end], audit.image[at..end])) continue;
            const page = at / page_bytes;
            const marked = bits[page / 8] >> @intCast(page % 8) & 1 != 0;
            run.expect(marked, "page 0x{x} was written to and is not marked", .{audit.gpa + at});
        }
    }
};
