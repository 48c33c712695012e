/**
 * The house rules for Zig, found by reading the text as `zig fmt` lays it out: system calls in one file, no import
 * cycles, and how long a function or a line may be.
 */

const lengthMax = 70;
const columnsMax = 120;

export interface Source {
  /** The file's name without its folder: imports name each other so. */
  name: string;
  text: string;
}

/** Programs of their own, no part of libvring. */
const program = /^launcher(_\w+)?\.zig$/;

/** `std.os.linux` changes with every Zig release; libvring reaches it through sys.zig alone. */
function systemCalls({ name, text }: Source): string[] {
  if (name === "sys.zig" || program.test(name)) return [];
  return text.split("\n").flatMap((line, index) =>
    /\bstd\.(os|posix)\b/.test(line.replace(/\/\/.*/, ""))
      ? [`zig/${name}:${index + 1}: std.os is for zig/sys.zig alone: call that`]
      : []
  );
}

function lineLengths({ name, text }: Source): string[] {
  return text.split("\n").flatMap((line, index) =>
    [...line].length > columnsMax ? [`zig/${name}:${index + 1}: a line of more than ${columnsMax} columns`] : []
  );
}

/** A function ends with the first brace that stands where its `fn` line begins. */
function functionLengths({ name, text }: Source): string[] {
  const lines = text.split("\n");
  return lines.flatMap((line, first) => {
    const indent = line.match(/^( *)(?:pub |export |inline |noinline |extern )*fn /)?.[1];
    if (indent === undefined || line.endsWith("}") || line.endsWith(";")) return [];
    // A type made by a function: the methods inside are measured.
    if (line.endsWith(" type {")) return [];
    const last = lines.findIndex((other, index) => index > first && other === `${indent}}`);
    const length = last - first + 1;
    return last > 0 && length > lengthMax
      ? [`zig/${name}:${first + 1}: a function of ${length} lines: split it, ${lengthMax} are enough`]
      : [];
  });
}

/** What one file imports outside its tests: a test may use any file, as its driver twin. */
function imports({ text }: Source): string[] {
  const found: string[] = [];
  let testing = false;
  for (const line of text.split("\n")) {
    if (/^test\b.*\{$/.test(line)) testing = true;
    if (!testing) found.push(...[...line.matchAll(/@import\("([^"]+\.zig)"\)/g)].map((match) => match[1] ?? ""));
    if (line === "}") testing = false;
  }
  return found;
}

function cycles(sources: Source[]): string[] {
  const graph = new Map(sources.map((source) => [source.name, imports(source)]));
  const done = new Set<string>();
  const found: string[] = [];
  const visit = (name: string, path: string[]) => {
    if (path.includes(name)) {
      found.push(`zig/${name}: imports go in a circle: ${[...path.slice(path.indexOf(name)), name].join(" -> ")}`);
      return;
    }
    if (done.has(name)) return;
    for (const next of graph.get(name) ?? []) visit(next, [...path, name]);
    done.add(name);
  };
  for (const name of graph.keys()) visit(name, []);
  return found;
}

/** One line for each breach of a rule; none when all is well. */
export function zigBreaches(sources: Source[]): string[] {
  return [
    ...sources.flatMap((one) => [...systemCalls(one), ...lineLengths(one), ...functionLengths(one)]),
    ...cycles(sources),
  ];
}
