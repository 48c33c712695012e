/**
 * The program inside the file that the tests of the launcher make: says how it was started, or does as it is told. It
 * is run as it stands, so it has no types to strip.
 */

const [command = "report", ...rest] = Deno.args;
const library = Deno.env.get("VHOSTCTL_LIB") ?? "";

function report() {
  Deno.dlopen(library, {}).close();
  console.log(JSON.stringify({
    arguments: rest,
    environment: Deno.env.toObject(),
    runtime: Deno.execPath(),
    module: import.meta.url,
  }));
}

switch (command) {
  case "report":
    report();
    break;
  case "wait":
    report();
    await Deno.stdin.read(new Uint8Array(1));
    break;
  case "stay":
    report();
    await new Promise((wake) => setTimeout(wake, 60_000));
    break;
  case "echo":
    await Deno.stdin.readable.pipeTo(Deno.stdout.writable);
    break;
  case "exit":
    Deno.exit(Number(rest[0]));
    break;
  case "respawn": {
    const { code, stdout } = await new Deno.Command(Deno.env.get("VHOSTCTL_SELF") ?? "", { args: rest }).output();
    await Deno.stdout.write(stdout);
    Deno.exit(code);
  }
}
