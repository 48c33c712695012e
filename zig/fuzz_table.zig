//! Memory tables of two ports, as front ends change them under running rings: regions that are right,
//! that overlap, wrap or outgrow their files, fds of every kind, and files cut short later. A simple
//! list says what must be there.

const std = @import("std");
const abi = @import("abi.zig");
const Engine = @import("engine.zig").Engine;
const engine_file = @import("engine.zig");
const Memory = @import("memory.zig").Memory;
const openFds = @import("fd_census.zig").openFds;
const Port = @import("port.zig").Port;
const Run = @import("fuzz_run.zig").Run;
const same = @import("fuzz_guest.zig").same;
const sys = @import("sys.zig");

const allocator = std.heap.c_allocator;

const page = std.heap.page_size_min;
const file_bytes_max = 16 * page;
const files_max = 4;
/// Most regions lie near each other, so that they meet.
const near_bytes = 64 * page;

const File = struct {
    fd: i32,
    /// As it was made, and what is left of it.
    made_bytes: u64,
    bytes: u64,
    content: [file_bytes_max]u8,
    /// Where a ring was: the device may have written there.
    written: [file_bytes_max]bool,

    fn isCut(file: *const File) bool {
        return file.bytes < file.made_bytes;
    }
};

/// Of the one ring that a port may have.
const ring_bytes = 256;

const Row = struct { region: abi.Region, file: u32 };

/// One port: what it has, and what it must have.
const Side = struct {
    port: *Port,
    rows: std.ArrayList(Row) = .empty,
    /// The ring that runs; its areas must stay mapped.
    config: ?abi.VringConfig = null,
    /// Since the ring was started, a file of the port was cut, or its memory became another.
    may_break: bool = false,

    fn memory(side: *const Side) *Memory {
        return &side.port.memory;
    }

    fn find(side: *const Side, gpa: u64) ?Row {
        for (side.rows.items) |row| {
            if (gpa >= row.region.gpa and gpa - row.region.gpa < row.region.size_bytes) return row;
        }
        return null;
    }
};

const Table = struct {
    run: *Run,
    engine: *Engine,
    sides: [2]Side,
    files: [files_max]File,
    fds_before: u32,
    other_fds: [3]i32,

    fn init(self: *Table, run: *Run) void {
        self.run = run;
        self.engine = Engine.create(.{ .ports_max = 2, .mac_age_ms = 1000 }) catch run.fail("no engine", .{});
        _ = self.engine.addWorker(.{ .cpu = -1, .idle = .sleep }) catch run.fail("no worker", .{});
        for (&self.sides) |*side| {
            const number = self.engine.openPort(.{ .queue_pairs = 1, .mtu = 0 }) catch run.fail("no port", .{});
            side.* = .{ .port = self.engine.fabric.ports[number].? };
        }
        const pair = sys.socketPair() catch run.fail("no sockets", .{});
        self.other_fds = .{ sys.eventfd() catch run.fail("no eventfd", .{}), pair[0], -1 };
        for (&self.files) |*file| self.make(file);
        self.fds_before = openFds();
    }

    fn make(self: *Table, file: *File) void {
        const random = &self.run.random;
        const sizes = [_]u64{ page, 3 * page, 2 * page - 1, 5 * page + 17, file_bytes_max };
        file.made_bytes = random.pick(u64, &sizes);
        file.bytes = file.made_bytes;
        file.fd = std.c.memfd_create("fuzz", 0);
        self.run.expect(std.c.ftruncate(file.fd, @intCast(file.bytes)) == 0, "no file", .{});
        const map = sys.mapShared(file.fd, 0, file.bytes) catch self.run.fail("no mapping", .{});
        random.fill(&file.content);
        @memset(&file.written, false);
        @memcpy(map, file.content[0..map.len]);
        sys.unmap(map);
    }

    fn step(self: *Table) void {
        const random = &self.run.random;
        const side = &self.sides[random.below(2)];
        switch (random.below(16)) {
            0...4 => self.add(side),
            5, 6 => self.remove(side),
            7 => self.replace(side),
            8 => if (random.once(8)) self.cutOrMend(),
            9 => self.startOrStop(side),
            10 => if (random.once(8)) self.reset(side),
            else => {},
        }
        for (0..8) |_| self.look(&self.sides[random.below(2)]);
        self.checkFaults();
        if (self.run.step.load(.monotonic) % 1024 == 0) {
            // One for each region, for whoever is to go on in our place.
            const held = self.fds_before + self.regionCount();
            self.run.expectEqual(held, openFds(), "fds held");
            self.checkMaps();
        }
    }

    /// A region for a port: anywhere, or beside another of its own, to the byte.
    fn anyRegion(self: *Table, side: *const Side) abi.Region {
        var region = self.freeRegion();
        const random = &self.run.random;
        if (side.rows.items.len == 0 or !random.once(4)) return region;
        const other = side.rows.items[random.below(side.rows.items.len)].region;
        const away = @as(u64, random.below(3)) -% 1;
        const behind = other.gpa +% other.size_bytes;
        region.gpa = if (random.once(2)) behind +% away else other.gpa -% region.size_bytes +% away;
        return region;
    }

    fn freeRegion(self: *Table) abi.Region {
        const random = &self.run.random;
        const whole_pages = ~@as(u64, page - 1);
        var gpa: u64 = random.below(near_bytes);
        if (!random.once(4)) gpa &= whole_pages;
        if (random.once(16)) gpa = 0 -% gpa;
        var offset: u64 = if (random.once(2)) 0 else random.below(file_bytes_max);
        if (random.once(2)) offset &= whole_pages;
        return .{
            .gpa = if (random.once(64)) random.next() else gpa,
            .size_bytes = if (random.once(32)) random.next() >> @intCast(random.below(64)) else random.below(8 * page),
            .mmap_offset = if (random.once(32)) random.next() else offset,
        };
    }

    /// Why a region must be refused; null: it must not.
    fn isWrong(self: *const Table, rows: []const Row, region: abi.Region, file: ?u32) bool {
        if (region.size_bytes == 0 or region.gpa > std.math.maxInt(u64) - region.size_bytes) return true;
        for (rows) |row| {
            const other = row.region;
            if (region.gpa < other.gpa + other.size_bytes and other.gpa < region.gpa + region.size_bytes) return true;
        }
        const bytes = self.files[file orelse return true].bytes;
        return region.mmap_offset > bytes or bytes - region.mmap_offset < region.size_bytes;
    }

    /// An fd, and its file if it is one.
    fn anyFd(self: *Table) struct { i32, ?u32 } {
        const random = &self.run.random;
        if (random.once(16)) return .{ random.pick(i32, &self.other_fds), null };
        const file = random.below(files_max);
        return .{ self.files[file].fd, file };
    }

    fn add(self: *Table, side: *Side) void {
        const region = self.anyRegion(side);
        const fd, const file = self.anyFd();
        const wrong = self.isWrong(side.rows.items, region, file);
        if (self.engine.addRegion(side.port, region, fd)) |_| {
            self.run.expect(!wrong, "added: {any}", .{region});
            side.rows.append(allocator, .{ .region = region, .file = file.? }) catch unreachable;
        } else |reason| self.run.expect(wrong, "refused: {any}: {t}", .{ region, reason });
    }

    fn remove(self: *Table, side: *Side) void {
        const random = &self.run.random;
        if (side.rows.items.len == 0 or random.once(8)) {
            const region = self.anyRegion(side);
            for (side.rows.items) |row| if (std.meta.eql(row.region, region)) return;
            const refused = self.engine.removeRegion(side.port, region);
            return self.run.expect(refused == error.NoSuchHandle, "removed what was not there", .{});
        }
        const index = random.below(side.rows.items.len);
        const region = side.rows.items[index].region;
        const needed = if (side.config) |config| isIn(config, region) else false;
        if (self.engine.removeRegion(side.port, region)) |_| {
            self.run.expect(!needed, "a running ring lost its memory", .{});
            _ = side.rows.swapRemove(index);
        } else |reason| self.run.expect(needed, "not removed: {t}", .{reason});
    }

    /// A whole new table, which may contain the ring's region or not.
    fn replace(self: *Table, side: *Side) void {
        const random = &self.run.random;
        var regions: [8]abi.Region = undefined;
        var fds: [8]i32 = undefined;
        var rows: [8]Row = undefined;
        const count = random.below(8);
        var wrong = false;
        for (0..count) |i| {
            var file: ?u32 = undefined;
            regions[i] = self.anyRegion(side);
            fds[i], file = self.anyFd();
            if (i == 0 and side.rows.items.len > 0 and random.once(2)) {
                const row = side.rows.items[random.below(side.rows.items.len)];
                regions[i], file = .{ row.region, row.file };
                fds[i] = self.files[row.file].fd;
            }
            wrong = wrong or self.isWrong(rows[0..i], regions[i], file);
            rows[i] = .{ .region = regions[i], .file = file orelse 0 };
            if (wrong) rows[i].region.size_bytes = 0;
        }
        if (side.config) |config| {
            wrong = wrong or !isPlaced(config, rows[0..count]);
        }
        if (self.engine.setMemory(side.port, regions[0..count], fds[0..count])) |_| {
            self.run.expect(!wrong, "a wrong table was taken", .{});
            // Other bytes lie where the ring was.
            side.may_break = true;
            side.rows.clearRetainingCapacity();
            side.rows.appendSlice(allocator, rows[0..count]) catch unreachable;
            if (side.config) |config| self.noteRing(side, config);
        } else |reason| self.run.expect(wrong, "a table of {d} was refused: {t}", .{ count, reason });
    }

    fn isIn(config: abi.VringConfig, region: abi.Region) bool {
        return config.desc_gpa >= region.gpa and config.desc_gpa - region.gpa < region.size_bytes;
    }

    /// Whether every area of the ring lies in one row, aligned for us as it is for the guest.
    fn isPlaced(config: abi.VringConfig, rows: []const Row) bool {
        const Area = struct { gpa: u64, bytes: u64, alignment: u64 };
        const areas = [_]Area{
            .{ .gpa = config.desc_gpa, .bytes = 16 * 4, .alignment = 16 },
            .{ .gpa = config.avail_gpa, .bytes = 6 + 2 * 4, .alignment = 2 },
            .{ .gpa = config.used_gpa, .bytes = 6 + 8 * 4, .alignment = 4 },
        };
        for (areas) |area| {
            const found = for (rows) |row| {
                const inside = area.gpa -% row.region.gpa;
                if (inside >= row.region.size_bytes or row.region.size_bytes - inside < area.bytes) continue;
                break (row.region.mmap_offset + inside) % area.alignment == 0;
            } else false;
            if (!found) return false;
        }
        return true;
    }

    /// The rings of a port run in one region, at a page.
    fn startOrStop(self: *Table, side: *Side) void {
        const vring = &side.port.vrings[1];
        if (side.config != null) {
            _ = self.engine.stopVring(side.port, vring) catch self.run.fail("a ring does not stop", .{});
            side.config = null;
            return;
        }
        for (side.rows.items) |row| {
            const region = row.region;
            if (region.gpa % page != 0 or region.mmap_offset % page != 0 or region.size_bytes < ring_bytes) continue;
            const config: abi.VringConfig = .{
                .features = 0,
                .desc_gpa = region.gpa,
                .avail_gpa = region.gpa + 64,
                .used_gpa = region.gpa + 128,
                .log_gpa = 0,
                .size = 4,
                .base = 0,
                .flags = 0,
            };
            // The device goes by what it finds, and writes some of it.
            self.noteRing(side, config);
            var hint: u32 = 0;
            @memset(side.memory().translate(region.gpa, ring_bytes, &hint).?[0..ring_bytes], 0);
            self.engine.startVring(side.port, vring, config) catch |reason|
                self.run.fail("not started: {t}", .{reason});
            side.config = config;
            side.may_break = false;
            return;
        }
    }

    /// What the device may write from now on.
    fn noteRing(self: *Table, side: *const Side, config: abi.VringConfig) void {
        for (0..ring_bytes) |i| {
            const gpa = config.desc_gpa + i;
            const row = side.find(gpa) orelse continue;
            self.files[row.file].written[row.region.mmap_offset + (gpa - row.region.gpa)] = true;
        }
    }

    fn reset(self: *Table, side: *Side) void {
        self.engine.resetPort(side.port) catch self.run.fail("a port is not reset", .{});
        side.config = null;
        side.rows.clearRetainingCapacity();
    }

    /// A file loses its end; or, when nobody has it any more, is made anew.
    fn cutOrMend(self: *Table) void {
        const file_index = self.run.random.below(files_max);
        const file = &self.files[file_index];
        for (&self.sides) |*side| for (side.rows.items) |row| {
            if (row.file != file_index) continue;
            file.bytes = self.run.random.below(file.bytes + 1);
            self.run.expect(std.c.ftruncate(file.fd, @intCast(file.bytes)) == 0, "not cut", .{});
            return;
        };
        sys.close(file.fd);
        self.make(file);
    }

    /// Finds some bytes at a place near an edge, in every way that there is.
    fn look(self: *Table, side: *Side) void {
        const random = &self.run.random;
        var gpa: u64 = random.below(near_bytes);
        if (side.rows.items.len > 0 and !random.once(4)) {
            const region = side.rows.items[random.below(side.rows.items.len)].region;
            const before_end = region.gpa +% region.size_bytes -% random.below(40);
            gpa = if (random.once(2)) before_end else region.gpa +% random.below(64) -% 16;
        }
        const len: u64 = if (random.once(8)) random.below(8 * page) else random.between(1, 40);
        const row = side.find(gpa);
        const memory = side.memory();
        var hint = random.below(abi.regions_max);
        const span = memory.span(gpa, len, &hint);
        self.run.expect((span != null) == (row != null), "span at {x}", .{gpa});
        hint = random.below(abi.regions_max);
        const whole = memory.translate(gpa, len, &hint);
        if (row) |found| {
            const inside = gpa - found.region.gpa;
            const left = found.region.size_bytes - inside;
            self.run.expectEqual(@min(len, left), span.?.len, "length of a span");
            self.run.expect((whole != null) == (len <= left), "translation of {d} at {x}", .{ len, gpa });
            if (whole) |base| self.run.expect(base == span.?.base, "translation at {x}", .{gpa});
        } else self.run.expect(whole == null, "translation at {x}", .{gpa});
        self.readSome(side, gpa, @min(len, 64));
    }

    fn readSome(self: *Table, side: *Side, gpa: u64, len: u64) void {
        var bytes: [64]u8 = undefined;
        var expected: [64]u8 = undefined;
        var uncertain = false;
        var faults = false;
        const mapped = for (0..len) |i| {
            const at = std.math.add(u64, gpa, i) catch break false;
            const row = side.find(at) orelse break false;
            const file = &self.files[row.file];
            const offset = row.region.mmap_offset + (at - row.region.gpa);
            expected[i] = file.content[offset];
            uncertain = uncertain or file.isCut() or file.written[offset];
            faults = faults or offset >= std.mem.alignForward(u64, file.bytes, page);
        } else true;
        var hint = self.run.random.below(abi.regions_max);
        const done = side.memory().read(gpa, bytes[0..len], &hint);
        self.run.expectEqual(mapped, done, "whether bytes can be read");
        if (!done) return;
        // A cut file has zeros sooner or later.
        self.run.expect(uncertain or same(bytes[0..len], expected[0..len]), "bytes at {x}", .{gpa});
        self.run.expect(!faults or side.memory().isFaulty(), "a cut file is not noticed at {x}", .{gpa});
    }

    /// Only a port with a cut file can be at fault, and its rings break in time.
    fn checkFaults(self: *Table) void {
        for (&self.sides) |*side| {
            var cut = false;
            for (side.rows.items) |row| cut = cut or self.files[row.file].isCut();
            self.run.expect(cut or !side.memory().isFaulty(), "a port without cut files is at fault", .{});
            side.may_break = side.may_break or cut;
            const broken = side.config != null and side.port.vrings[1].isBroken();
            self.run.expect(side.may_break or !broken, "a ring broke for no reason", .{});
            if (side.config == null or broken or !side.memory().isFaulty()) continue;
            // The worker sees it when it next wakes.
            self.engine.setMtu(side.port, 0) catch self.run.fail("the worker is stuck", .{});
            while (!side.port.vrings[1].isBroken()) sys.yieldCpu();
        }
    }

    fn regionCount(self: *const Table) u32 {
        return @intCast(self.sides[0].rows.items.len + self.sides[1].rows.items.len);
    }

    /// No more mappings than regions.
    fn checkMaps(self: *Table) void {
        var buffer: [64 << 10]u8 = undefined;
        const fd = sys.open("/proc/self/maps") catch self.run.fail("no /proc", .{});
        defer sys.close(fd);
        var used: usize = 0;
        while (used < buffer.len) {
            const count = sys.readFile(fd, buffer[used..]) catch 0;
            if (count == 0) break;
            used += count;
        }
        const found = std.mem.count(u8, buffer[0..used], "memfd:fuzz");
        const regions = self.regionCount();
        self.run.expect(found <= regions, "{d} mappings of {d} regions", .{ found, regions });
    }
};

pub fn play(run: *Run) void {
    const self = allocator.create(Table) catch run.fail("no memory", .{});
    self.init(run);
    while (run.more()) self.step();
    self.engine.destroy();
}
