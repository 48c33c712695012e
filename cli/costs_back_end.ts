/**
 * Back ends with two ports whose costs are measured: ours, and DPDK's testpmd.
 *
 * @module
 */
import { JsonProcess, ownProgram } from "./json_process.ts";
import { Testpmd, type TestpmdProgram } from "./testpmd.ts";

/** Where a back end is to be. */
export interface BackEndPlace {
  /** One for each port. */
  readonly sockets: readonly string[];
  /** For what else it keeps. */
  readonly directory: string;
  readonly cpu: number;
  /** Whether it connects to the sockets, which are there; else it makes them. */
  readonly connects: boolean;
}

/** A kind of back end, which can be started again and again. */
export interface BackEnd {
  readonly name: string;
  /** Starts one, which need not listen yet. */
  start(place: BackEndPlace): Promise<JsonProcess>;
}

/** `serve`, as its users have it. */
export const ownBackEnd: BackEnd = {
  name: "vhostctl serve",
  start({ sockets, directory, cpu, connects }) {
    const mode = connects ? "client" : "server";
    const ports = sockets.flatMap((socket, port) => ["--port", `name=p${port},socket=${socket},mode=${mode}`]);
    const args = ["serve", "--json", "--stats", "0", "--dir", directory, "--cpus", `${cpu}`, ...ports];
    return Promise.resolve(new JsonProcess(this.name, ownProgram(), args));
  },
};

/** testpmd with net_vhost, as it is compared with. */
export function peerBackEnd(program: TestpmdProgram): BackEnd {
  return {
    name: program.version,
    async start({ sockets, cpu, connects }) {
      return (await Testpmd.start({ program, sockets, queues: 1, cpu, client: connects })).process;
    },
  };
}
