//! Ring and header layouts of the virtio specification (v1.3, sections 2.6-2.8 and 5.1), and
//! nothing else. Numbers stand here once; message layouts of vhost-user live in TypeScript.

const std = @import("std");

/// Feature bits that rings and the virtio-net header depend on (5.1.3 and 6).
pub const Feature = struct {
    pub const csum: u6 = 0;
    pub const guest_csum: u6 = 1;
    pub const guest_tso4: u6 = 7;
    pub const guest_tso6: u6 = 8;
    pub const guest_ecn: u6 = 9;
    pub const guest_ufo: u6 = 10;
    pub const host_tso4: u6 = 11;
    pub const host_tso6: u6 = 12;
    pub const host_ecn: u6 = 13;
    pub const host_ufo: u6 = 14;
    pub const mrg_rxbuf: u6 = 15;
    pub const log_all: u6 = 26;
    pub const indirect_desc: u6 = 28;
    pub const event_idx: u6 = 29;
    pub const version_1: u6 = 32;
    pub const ring_packed: u6 = 34;
    pub const in_order: u6 = 35;
    pub const guest_uso4: u6 = 54;
    pub const guest_uso6: u6 = 55;
    pub const host_uso: u6 = 56;
};

pub fn has(features: u64, bit: u6) bool {
    return features >> bit & 1 != 0;
}

/// Flag of SET_VRING_ADDR: what is written to the used area is to be logged.
pub const vring_log: u32 = 1;

/// Descriptor flags (2.7.5, 2.8.1).
pub const desc_next: u16 = 1;
pub const desc_write: u16 = 2;
pub const desc_indirect: u16 = 4;
pub const desc_avail: u16 = 1 << 7;
pub const desc_used: u16 = 1 << 15;

/// Split ring, `flags` of the avail ring (2.7.7) and of the used ring (2.7.10).
pub const avail_no_interrupt: u16 = 1;
pub const used_no_notify: u16 = 1;

/// Split ring descriptor (2.7.5), also every entry of its indirect tables (2.7.5.3).
pub const Desc = extern struct {
    addr: u64,
    len: u32,
    flags: u16,
    next: u16,
};

pub const UsedElement = extern struct {
    id: u32,
    len: u32,
};

/// Packed ring descriptor (2.8.13), also every entry of its indirect tables (2.8.7), where only the
/// address, the length and the WRITE flag mean something.
pub const PackedDesc = extern struct {
    addr: u64,
    len: u32,
    id: u16,
    flags: u16,
};

/// Packed ring event suppression area (2.8.14): bits 0-14 offset, bit 15 wrap counter.
pub const Event = packed struct(u32) {
    offset_wrap: u16,
    flags: u16,

    pub const enable: u16 = 0;
    pub const disable: u16 = 1;
    pub const at_desc: u16 = 2;
};

/// The header before every frame (5.1.6), little-endian with VERSION_1 and on the hosts we run on.
pub const NetHeader = extern struct {
    flags: u8,
    gso_type: u8,
    hdr_len: u16,
    gso_size: u16,
    csum_start: u16,
    csum_offset: u16,
    num_buffers: u16,

    pub const needs_csum: u8 = 1;
    pub const gso_none: u8 = 0;
    pub const gso_tcpv4: u8 = 1;
    pub const gso_udp: u8 = 3;
    pub const gso_tcpv6: u8 = 4;
    pub const gso_udp_l4: u8 = 5;
    pub const gso_ecn: u8 = 0x80;

    /// Bytes on the ring: without VERSION_1 and MRG_RXBUF the last field is absent (5.1.6.1).
    pub fn size(features: u64) u32 {
        return if (has(features, Feature.version_1) or has(features, Feature.mrg_rxbuf)) 12 else 10;
    }
};

pub const ethernet_header_bytes = 14;

comptime {
    std.debug.assert(@sizeOf(Desc) == 16 and @offsetOf(Desc, "flags") == 12);
    std.debug.assert(@sizeOf(UsedElement) == 8);
    std.debug.assert(@sizeOf(PackedDesc) == 16 and @offsetOf(PackedDesc, "flags") == 14);
    std.debug.assert(@sizeOf(Event) == 4);
    std.debug.assert(@sizeOf(NetHeader) == 12 and @offsetOf(NetHeader, "num_buffers") == 10);
}
