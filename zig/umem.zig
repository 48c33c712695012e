//! The memory of an AF_XDP socket, in chunks of which each holds a frame or a piece of one (Linux,
//! Documentation/networking/af_xdp.rst).

const std = @import("std");
const sys = @import("sys.zig");

/// A page: no driver takes more without huge pages.
pub const chunk_bytes = 4096;
/// In front of what is received the kernel leaves room for a program to put headers (XDP_PACKET_HEADROOM).
const headroom_bytes = 256;
/// Of a frame that is received, in one chunk.
pub const receive_bytes_max = chunk_bytes - headroom_bytes;

/// Chunks for each direction.
pub const chunks_each = 2048;
/// Of each ring: twice as many, for the kernel shows what it did with a chunk before it gives back the chunk's place in
/// the ring that it came by (xsk_flush). With as many places as chunks there would be none for a moment.
pub const ring_entries = 2 * chunks_each;

/// struct xdp_desc: a frame, or a piece of one. Its address counts from the beginning of the memory.
pub const Piece = extern struct {
    address: u64,
    len: u32,
    options: u32,

    /// There is more of the frame in the next one (XDP_PKT_CONTD).
    pub const continued = 1;
};

/// struct xdp_umem_reg.
const Registration = extern struct { address: u64, bytes: u64, chunk_bytes: u32, headroom: u32 = 0, more: u64 = 0 };

const option_register = 4;

/// The first half is to receive into, the second to send from.
pub const Umem = struct {
    map: sys.Map,

    pub fn open() sys.Error!Umem {
        return .{ .map = try sys.mapPrivate(2 * chunks_each * chunk_bytes) };
    }

    pub fn close(umem: Umem) void {
        sys.unmap(umem.map);
    }

    /// Makes it a socket's, for which its pages are taken and pinned.
    pub fn register(umem: Umem, fd: i32) sys.Error!void {
        const registration: Registration = .{
            .address = @intFromPtr(umem.map.ptr),
            .bytes = umem.map.len,
            .chunk_bytes = chunk_bytes,
        };
        try sys.setXdpOption(fd, option_register, std.mem.asBytes(&registration));
    }

    pub fn bytesOf(umem: Umem, piece: Piece) []u8 {
        return umem.map[@intCast(piece.address)..][0..piece.len];
    }

    pub fn sendChunk(umem: Umem, number: u32) []u8 {
        return umem.map[@intCast(sendAddress(number))..][0..chunk_bytes];
    }
};

pub fn receiveAddress(number: u32) u64 {
    return @as(u64, number) * chunk_bytes;
}

pub fn sendAddress(number: u32) u64 {
    return receiveAddress(chunks_each + number);
}

/// Of what the kernel has sent.
pub fn sendNumber(address: u64) u32 {
    return @intCast(address / chunk_bytes - chunks_each);
}

/// Of the chunk that an address is in.
pub fn chunkAddress(address: u64) u64 {
    return address / chunk_bytes * chunk_bytes;
}

comptime {
    std.debug.assert(@sizeOf(Piece) == 16);
    std.debug.assert(@sizeOf(Registration) == 32);
}
