//! What a simulated guest leaves to its device: to cut its frames into datagrams (USO), and their checksums with it.

const std = @import("std");
const guest_frame = @import("guest_frame.zig");
const spec = @import("spec.zig");

const NetHeader = spec.NetHeader;

/// Of a header that says what is left to do; the rest counts buffers.
pub const header_bytes = @offsetOf(NetHeader, "num_buffers");

/// Who looks at frames of this kind.
pub const View = enum {
    /// They come as they were sent.
    whole,
    /// They come in pieces with whole checksums, or with those of their pseudo-headers.
    pieces,
    partial_pieces,
};

pub const Offload = struct {
    /// Payload of each piece; 0: frames are to stay as they are, and have no checksum.
    size: u16 = 0,

    /// Frames of the traffic are to be cut; others, such as announcements, never are.
    pub fn isLarge(self: Offload, frame_bytes: u32) bool {
        return self.size != 0 and frame_bytes > guest_frame.header_bytes + @as(u32, self.size);
    }

    /// Of a frame as it is sent, and as it comes to who takes it whole (virtio 5.1.6.2, 5.1.6.4).
    pub fn header(self: Offload, frame_bytes: u32) NetHeader {
        var found = std.mem.zeroes(NetHeader);
        if (!self.isLarge(frame_bytes)) return found;
        found = partial_header;
        found.gso_type = NetHeader.gso_udp_l4;
        found.gso_size = self.size;
        found.hdr_len = guest_frame.header_bytes;
        return found;
    }

    /// How such frames come to a guest.
    pub fn viewOf(self: Offload, features: u64) View {
        if (self.size == 0 or spec.has(features, spec.Feature.guest_uso4)) return .whole;
        return if (spec.has(features, spec.Feature.guest_csum)) .partial_pieces else .pieces;
    }
};

/// Of a frame of which only the checksum is left to do.
pub const partial_header: NetHeader = .{
    .flags = NetHeader.needs_csum,
    .gso_type = NetHeader.gso_none,
    .hdr_len = 0,
    .gso_size = 0,
    .csum_start = guest_frame.transport_at,
    .csum_offset = guest_frame.checksum_offset,
    .num_buffers = 0,
};

/// Whether a header in memory says the same, whatever the buffers.
pub fn isSame(bytes: [*]const u8, wanted: NetHeader) bool {
    return std.mem.eql(u8, bytes[0..header_bytes], std.mem.asBytes(&wanted)[0..header_bytes]);
}
