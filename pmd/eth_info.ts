/**
 * What an Ethernet device tells about itself.
 *
 * @module
 */

/** As `rte_eth_link`. */
export interface EthLink {
  readonly up: boolean;
  readonly speed_Mbps: number;
  readonly duplex: "full";
}

/** A queue, and whether the guest has it switched on. */
export interface QueueState {
  readonly direction: "rx" | "tx";
  readonly queue: number;
  readonly enabled: boolean;
}

/** As `rte_eth_stats`: `i` is what came from the guest, `o` what went to it. */
export interface EthStats {
  readonly ipackets: bigint;
  readonly opackets: bigint;
  readonly ibytes: bigint;
  readonly obytes: bigint;
  /** Was taken from the guest and is no frame that may go on. */
  readonly ierrors: bigint;
  /** Could not be given to the guest: no buffer, or not what it takes. Whoever sends one again counts it again. */
  readonly oerrors: bigint;
}

/** By name: `rx_good_packets`, `tx_q0_drop_no_buffer` and so on. */
export type EthXstats = Readonly<Record<string, bigint>>;
