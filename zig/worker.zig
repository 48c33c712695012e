//! A thread that serves fromGuest rings: polls while there is traffic, sleeps on kicks otherwise.
//!
//! The control thread changes what workers see only while it holds all of them (`hold`, `release`):
//! between two bursts, or asleep.

const std = @import("std");
const abi = @import("abi.zig");
const burst_file = @import("burst.zig");
const fault = @import("fault.zig");
const Input = switch_file.Input;
const Notices = switch_file.Notices;
const lane = @import("lane.zig");
const queue_burst = @import("queue_burst.zig");
const switch_file = @import("switch.zig");
const sys = @import("sys.zig");
const Switch = switch_file.Switch;
const Vring = @import("vring.zig").Vring;

/// Without traffic for so long, an adaptive worker goes to sleep.
const spin_ns = 50_000;
/// A ring without a kick fd, or one that buffers for frames of ours are waited for in, is looked at this often by a
/// sleeping worker.
const unkicked_poll_ms = 1;
/// The clock for ageing is read this often.
const clock_cycles = 1 << 20;
/// Rings that one worker can serve.
const inputs_max = abi.ports_max * 8;

const State = struct {
    const running: u32 = 0;
    const asleep: u32 = 1;
    const held: u32 = 2;
};

pub const Worker = struct {
    fabric: *Switch,
    idle: abi.IdleMode,
    cpu: i32,
    thread: std.Thread,
    set: i32,
    wake: i32,
    burst: *burst_file.Burst,
    inputs: []Input,
    input_count: u32,
    notices: Notices,
    now_ms: u32,
    clock_read: u64,
    born: u64,
    faults_seen: u32,
    stats: abi.WorkerStats align(64),
    /// Between control and worker.
    state: std.atomic.Value(u32) align(64),
    requested: std.atomic.Value(bool),
    quit: std.atomic.Value(bool),
    was_asleep: bool,
    /// For `poke`; 0 until the thread runs.
    thread_id: std.atomic.Value(i32),
    /// Control's: `stats.rounds` at the last check.
    rounds_seen: u64,

    pub const Error = error{ OutOfMemory, System, Stuck };

    pub fn create(fabric: *Switch, config: abi.WorkerConfig) Error!*Worker {
        const allocator = std.heap.page_allocator;
        const worker = try allocator.create(Worker);
        errdefer allocator.destroy(worker);
        worker.fabric = fabric;
        worker.idle = config.idle;
        worker.cpu = config.cpu;
        worker.input_count = 0;
        worker.notices.count = 0;
        worker.now_ms = 0;
        worker.clock_read = 0;
        worker.born = 0;
        worker.faults_seen = fault.total.load(.monotonic);
        worker.stats = std.mem.zeroes(abi.WorkerStats);
        worker.state = .init(State.running);
        worker.requested = .init(false);
        worker.quit = .init(false);
        worker.was_asleep = false;
        worker.thread_id = .init(0);
        worker.rounds_seen = 0;
        worker.set = try sys.epoll();
        errdefer sys.close(worker.set);
        worker.wake = try sys.eventfd();
        errdefer sys.close(worker.wake);
        try sys.epollAdd(worker.set, worker.wake, sys.event_in, 0);
        worker.burst = try burst_file.Burst.create();
        errdefer worker.burst.destroy();
        worker.inputs = try allocator.alloc(Input, inputs_max);
        errdefer allocator.free(worker.inputs);
        const options: std.Thread.SpawnConfig = .{ .stack_size = sys.thread_stack_bytes };
        worker.thread = std.Thread.spawn(options, run, .{worker}) catch return error.OutOfMemory;
        return worker;
    }

    /// Ends the thread between two bursts. Control must not hold the worker.
    pub fn destroy(worker: *Worker) void {
        worker.quit.store(true, .release);
        _ = sys.eventfdSignal(worker.wake);
        worker.thread.join();
        sys.close(worker.wake);
        sys.close(worker.set);
        worker.burst.destroy();
        std.heap.page_allocator.free(worker.inputs);
        std.heap.page_allocator.destroy(worker);
    }

    // For the control thread.

    /// Asks the worker to stop between two bursts; `await` then waits until it has.
    pub fn ask(worker: *Worker) void {
        worker.requested.store(true, .seq_cst);
    }

    pub fn await(worker: *Worker, deadline_ns: u64) error{Stuck}!void {
        var spins: u32 = 0;
        while (true) : (spins += 1) {
            const old = worker.state.cmpxchgStrong(State.asleep, State.held, .acq_rel, .acquire) orelse {
                worker.was_asleep = true;
                return;
            };
            if (old == State.held) {
                worker.was_asleep = false;
                return;
            }
            if (spins < 200) {
                std.atomic.spinLoopHint();
            } else {
                if (sys.nanoseconds() > deadline_ns) return error.Stuck;
                worker.poke();
                sys.futexWait(&worker.state, old, 10_000_000);
            }
        }
    }

    /// To be called now and then: a worker that did not get round since the last time may hang on a
    /// peer's eventfd.
    pub fn check(worker: *Worker) void {
        const rounds = worker.stats.rounds;
        const running = worker.state.load(.acquire) == State.running;
        if (running and rounds == worker.rounds_seen) worker.poke();
        worker.rounds_seen = rounds;
    }

    fn poke(worker: *Worker) void {
        const id = worker.thread_id.load(.acquire);
        if (id != 0) sys.poke(id);
    }

    /// Lets the worker go on; one that slept looks at everything anew.
    pub fn release(worker: *Worker) void {
        worker.requested.store(false, .seq_cst);
        const held = worker.state.load(.acquire) == State.held;
        if (!held) return;
        worker.state.store(if (worker.was_asleep) State.asleep else State.running, .release);
        sys.futexWakeAll(&worker.state);
        if (worker.was_asleep) _ = sys.eventfdSignal(worker.wake);
    }

    /// Gives a started ring to a held worker.
    pub fn add(worker: *Worker, input: Input) error{LimitReached}!void {
        if (worker.input_count == worker.inputs.len) return error.LimitReached;
        worker.inputs[worker.input_count] = input;
        worker.watch(&worker.inputs[worker.input_count]);
        worker.input_count += 1;
    }

    /// Takes a ring back from a held worker.
    pub fn remove(worker: *Worker, vring: *Input.Ring) void {
        const input = worker.find(vring) orelse return;
        worker.unwatch(input);
        worker.input_count -= 1;
        input.* = worker.inputs[worker.input_count];
    }

    /// What a held worker has of a ring.
    pub fn find(worker: *Worker, vring: *Input.Ring) ?*Input {
        for (worker.inputs[0..worker.input_count]) |*input| if (input.vring == vring) return input;
        return null;
    }

    /// The kick fd of one of its rings has come. Edge-triggered: the counter need not be read, so that a
    /// front end cannot make the worker block on it.
    pub fn watch(worker: *Worker, input: *Input) void {
        const kick = input.vring.kick;
        input.watched = kick >= 0;
        if (!input.watched) return;
        sys.epollAdd(worker.set, kick, sys.event_in | sys.event_edge, @intFromPtr(input.vring)) catch {
            input.watched = false;
        };
    }

    /// It is about to go.
    pub fn unwatch(worker: *Worker, input: *Input) void {
        if (input.watched) sys.epollRemove(worker.set, input.vring.kick);
        input.watched = false;
    }

    // The thread.

    fn run(worker: *Worker) void {
        sys.blockSignals();
        sys.nameThread("vhost worker");
        worker.thread_id.store(sys.threadId(), .release);
        // A CPU that is not there was refused before; one that went away is no reason to stop.
        if (worker.cpu >= 0) sys.bindToCpu(@intCast(worker.cpu)) catch {};
        worker.born = sys.cycles();
        var idle_since: u64 = 0;
        while (true) {
            if (worker.requested.load(.acquire)) worker.yield();
            // Looked at behind that: of an engine that ends at rest nobody may touch a ring any more.
            if (worker.quit.load(.acquire)) return;
            const found = worker.round();
            worker.stats.rounds += 1;
            if (found) {
                idle_since = 0;
                continue;
            }
            worker.stats.cycles = sys.cycles() -% worker.born;
            if (worker.idle == .busy) continue;
            const now = sys.nanoseconds();
            if (idle_since == 0) idle_since = now;
            if (worker.idle == .adaptive and now - idle_since < spin_ns) continue;
            worker.sleep();
            idle_since = 0;
        }
    }

    /// One look at every ring.
    fn round(worker: *Worker) bool {
        var found = false;
        for (worker.inputs[0..worker.input_count]) |*input| {
            if (!worker.isDue(input)) continue;
            const begin = sys.cycles();
            worker.serve(input, begin);
            const end = sys.cycles();
            worker.stats.busy_cycles += end -% begin;
            worker.stats.cycles = end -% worker.born;
            found = true;
        }
        worker.stats.busy_rounds += @intFromBool(found);
        const faults = fault.total.load(.monotonic);
        if (faults != worker.faults_seen) {
            worker.faults_seen = faults;
            worker.fabric.breakFaulty();
        }
        return found;
    }

    /// There is something in the ring that may be taken, or something of ours to be sent.
    fn isDue(worker: *Worker, input: *const Input) bool {
        const mode = input.port.lane.mode;
        if (mode == .none) return false;
        // The switch has no other's driver.
        if (mode == .learn and input.vring.peer == .back_end) return false;
        const found = input.vring.pending() or input.vring.announces();
        if (mode != .txonly and found and input.vring.broken.load(.monotonic) == 0) return true;
        return mode != .learn and lane.sends(worker.fabric, input);
    }

    fn serve(worker: *Worker, input: *Input, now: u64) void {
        if (now -% worker.clock_read > clock_cycles) {
            worker.clock_read = now;
            worker.now_ms = sys.milliseconds();
        }
        if (input.port.lane.mode == .learn) worker.switchFrom(input) else worker.serveLane(input);
        worker.notices.send();
    }

    fn switchFrom(worker: *Worker, input: *Input) void {
        const burst = worker.burst;
        const vring = input.vring;
        queue_burst.collect(burst, vring);
        if (worker.accept(vring)) worker.fabric.forward(input, burst, worker.now_ms, &worker.notices);
        worker.notices.add(vring, queue_burst.giveBack(burst, vring));
    }

    fn serveLane(worker: *Worker, input: *Input) void {
        const burst = worker.burst;
        const vring = input.vring;
        if (lane.sends(worker.fabric, input)) {
            lane.send(worker.fabric, input, burst, &worker.notices);
            worker.stats.packets += burst.count;
        }
        if (input.port.lane.mode == .txonly) return;
        queue_burst.collectSome(burst, vring, input.port.lane.burst);
        if (worker.accept(vring)) lane.forward(worker.fabric, input, burst, &worker.notices);
        worker.notices.add(vring, queue_burst.giveBack(burst, vring));
    }

    /// Counts what was collected, and tells whether it may go on.
    fn accept(worker: *Worker, vring: *Vring) bool {
        const burst = worker.burst;
        worker.stats.packets += burst.count;
        if (!vring.enabled) {
            vring.stats.drop_disabled += burst.count;
            return false;
        }
        burst_file.countSent(burst, &vring.stats);
        return true;
    }

    /// Waits, between two bursts, until control is done.
    fn yield(worker: *Worker) void {
        worker.state.store(State.held, .release);
        sys.futexWakeAll(&worker.state);
        while (worker.state.load(.acquire) == State.held) sys.futexWait(&worker.state, State.held, 1_000_000_000);
    }

    /// Arms every ring, looks once more, and waits for a kick. A full fence lies between arming and
    /// looking (virtio 2.7.10.1, 2.8.10.1).
    fn sleep(worker: *Worker) void {
        const inputs = worker.inputs[0..worker.input_count];
        for (inputs) |*input| input.vring.arm();
        sys.fence();
        const pending = for (inputs) |*input| {
            if (worker.isDue(input)) break true;
        } else false;
        if (!pending and worker.state.cmpxchgStrong(State.running, State.asleep, .acq_rel, .acquire) == null) {
            worker.stats.sleeps += 1;
            var events: [64]sys.Event = undefined;
            const timeout: i32 = for (inputs) |*input| {
                if (!input.watched or lane.wantsToSend(input)) break unkicked_poll_ms;
            } else -1;
            const fired = sys.epollWait(worker.set, &events, timeout);
            while (worker.state.cmpxchgStrong(State.asleep, State.running, .acq_rel, .acquire)) |state| {
                sys.futexWait(&worker.state, state, 1_000_000_000);
            }
            worker.count(fired);
        }
        for (worker.inputs[0..worker.input_count]) |*input| input.vring.disarm();
    }

    /// While the worker slept, control may have taken rings away: only those it has still are real.
    fn count(worker: *Worker, fired: []const sys.Event) void {
        for (fired) |event| {
            if (event.data.u64 == 0) {
                _ = sys.eventfdDrain(worker.wake);
                continue;
            }
            const input = worker.find(@ptrFromInt(event.data.u64)) orelse continue;
            input.vring.stats.kicks += 1;
            if (input.vring.peer == .uplink) input.vring.peer.uplink.woken();
        }
    }
};
