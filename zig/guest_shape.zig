//! How a simulated guest's buffer lies in its memory: header and frame in one piece, or the header
//! by itself and the frame cut into segments with gaps between them.

const std = @import("std");
const Piece = @import("driver_entry.zig").Piece;

pub const segments_max = 255;
/// Room for the pieces of any buffer.
pub const Pieces = [segments_max + 1]Piece;

const line_bytes: u32 = 64;

pub const Shape = struct {
    header_bytes: u32,
    /// Of the frame.
    capacity: u32,
    /// Behind the header; 0: none, all is one piece.
    segments: u32,
    indirect: bool,
    /// From one segment to the next, and from one buffer to the next.
    pitch: u32,
    stride: u32,

    pub fn of(header_bytes: u32, capacity: u32, segments: u32, indirect: bool) Shape {
        std.debug.assert(segments <= segments_max);
        const most = if (segments == 0) capacity else std.math.divCeil(u32, capacity, segments) catch unreachable;
        const pitch = std.mem.alignForward(u32, most, line_bytes) + line_bytes;
        const bytes = if (segments == 0)
            std.mem.alignForward(u32, header_bytes + capacity, line_bytes)
        else
            line_bytes + segments * pitch;
        return .{
            .header_bytes = header_bytes,
            .capacity = capacity,
            .segments = segments,
            .indirect = indirect,
            .pitch = pitch,
            // An odd number of lines, so that not all headers fall into a few sets of the caches.
            .stride = bytes + if (bytes / line_bytes % 2 == 0) line_bytes else 0,
        };
    }

    /// One descriptor in the ring is a whole buffer, so that slots will do.
    pub fn isSlot(shape: Shape) bool {
        return shape.segments == 0 and !shape.indirect;
    }

    /// Where header and frame lie in the buffer at `gpa`; no piece is empty.
    pub fn pieces(shape: Shape, gpa: u64, frame_bytes: u32, out: *Pieces) []const Piece {
        if (shape.segments == 0) {
            out[0] = .{ .gpa = gpa, .len = shape.header_bytes + frame_bytes };
            return out[0..1];
        }
        out[0] = .{ .gpa = gpa, .len = shape.header_bytes };
        const each = std.math.divCeil(u32, frame_bytes, shape.segments) catch unreachable;
        var left = frame_bytes;
        var count: u32 = 1;
        while (left > 0) : (count += 1) {
            const len = @min(left, each);
            out[count] = .{ .gpa = gpa + line_bytes + (count - 1) * shape.pitch, .len = len };
            left -= len;
        }
        return out[0..count];
    }
};

test "pieces hold the frame, keep apart and stay in their buffer" {
    for ([_]u32{ 0, 1, 2, 3, 17, 255 }) |segments| {
        const shape: Shape = .of(12, 1500, segments, false);
        for ([_]u32{ 1, 60, 100, 1499, 1500 }) |frame_bytes| {
            var out: Pieces = undefined;
            const pieces = shape.pieces(4096, frame_bytes, &out);
            var sum: u32 = 0;
            var end: u64 = 4096;
            for (pieces) |piece| {
                try std.testing.expect(piece.len > 0 and piece.gpa >= end);
                sum += piece.len;
                end = piece.gpa + piece.len;
            }
            try std.testing.expectEqual(12 + frame_bytes, sum);
            try std.testing.expect(end <= 4096 + shape.stride);
        }
    }
}
