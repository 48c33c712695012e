//! A packet that came from an interface of the host's, where it lies.

const Segment = @import("chain.zig").Segment;
const NetHeader = @import("spec.zig").NetHeader;

/// Good until it is given back.
pub const Arrival = struct {
    header: NetHeader,
    segments: [segments_max]Segment,
    count: u32,
    /// Of the packet; what was cut off has no segment.
    len: u32,

    /// In so many descriptors AF_XDP tells of one, at most: CONFIG_MAX_SKB_FRAGS and one more (Linux,
    /// Documentation/networking/af_xdp.rst). Who reads from elsewhere has one or two segments.
    pub const segments_max = 18;
};
