//! The memory of an AF_XDP socket, in chunks of which each holds a frame or a piece of one (Linux,
//! Documentation/networking/af_xdp.rst). It is a file, so that another process can go on with it.

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

/// Chunks to send from that are in our hands, behind all chunks in the file: only who sends knows. Those to receive
/// into are in the socket's rings when nothing is being read.
pub const Hands = extern struct {
    /// Of the file; another one is laid out in another way.
    version: u32,
    count: u32,
    numbers: [chunks_each]u32,

    const known_version = 1;
};

const chunks_bytes = 2 * chunks_each * chunk_bytes;
const file_bytes = chunks_bytes + std.mem.alignForward(usize, @sizeOf(Hands), chunk_bytes);

/// The first half is to receive into, the second to send from.
pub const Umem = struct {
    fd: i32,
    map: sys.Map,

    pub fn open() sys.Error!Umem {
        const fd = try sys.memoryFile("umem", file_bytes);
        errdefer sys.close(fd);
        const umem: Umem = .{ .fd = fd, .map = try sys.mapShared(fd, 0, file_bytes) };
        const all = umem.hands();
        all.version = Hands.known_version;
        all.count = chunks_each;
        for (&all.numbers, 0..) |*number, i| number.* = @intCast(i);
        return umem;
    }

    /// Of another process, with what it had in hand. The fd is the caller's until it succeeds.
    pub fn adopt(fd: i32) error{ InvalidArgument, System }!Umem {
        if ((try sys.fileInfo(fd)).size != file_bytes) return error.InvalidArgument;
        const umem: Umem = .{ .fd = fd, .map = try sys.mapShared(fd, 0, file_bytes) };
        errdefer sys.unmap(umem.map);
        const known = umem.hands().*;
        if (known.version != Hands.known_version or known.count > chunks_each) return error.InvalidArgument;
        for (known.numbers[0..known.count]) |number| if (number >= chunks_each) return error.InvalidArgument;
        return umem;
    }

    pub fn close(umem: Umem) void {
        umem.forget();
        sys.close(umem.fd);
    }

    /// Leaves its descriptor to the caller.
    pub fn forget(umem: Umem) void {
        sys.unmap(umem.map);
    }

    pub fn hands(umem: Umem) *Hands {
        return @ptrCast(@alignCast(umem.map[chunks_bytes..].ptr));
    }

    /// Makes it a socket's, for which its pages are taken and pinned.
    pub fn register(umem: Umem, fd: i32) sys.Error!void {
        const registration: Registration = .{
            .address = @intFromPtr(umem.map.ptr),
            .bytes = chunks_bytes,
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
