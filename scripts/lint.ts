/**
 * The house rules for TypeScript as a plugin of `deno lint`: which folder may import which, and how long a function or
 * a line may be.
 * The reasons stand in README.md; the messages say what to do.
 */

const lengthMax = 70;
const columnsMax = 120;
const root = new URL("..", import.meta.url).pathname;

/** What each part may import of ours; a part that is not here may import anything. */
const allowed: Record<string, { values: string[]; types: string[] }> = {
  "vhost": { values: ["vhost"], types: ["vhost"] },
  // A received descriptor must have an owner before anyone else sees it.
  "ffi": { values: ["ffi", "vhost/fd.ts"], types: ["ffi", "vhost"] },
  "pmd": { values: ["pmd", "ffi", "vhost"], types: ["pmd", "ffi", "vhost"] },
  "mod.ts": { values: ["pmd", "ffi", "vhost"], types: ["pmd", "ffi", "vhost"] },
  "cli": { values: ["cli", "mod.ts"], types: ["cli", "mod.ts"] },
};

/** `vhost/wire.ts` belongs to `vhost`, `mod.ts` to itself. */
function partOf(path: string): string {
  return path.slice(root.length).split("/")[0] ?? "";
}

type Importer = Deno.lint.ImportDeclaration | Deno.lint.ExportNamedDeclaration | Deno.lint.ExportAllDeclaration;

function isTypeOnly(node: Importer): boolean {
  if (node.type !== "ImportDeclaration") return node.exportKind === "type";
  if (node.importKind === "type") return true;
  return node.specifiers.length > 0 &&
    node.specifiers.every((one) => one.type === "ImportSpecifier" && one.importKind === "type");
}

function checkDirection(context: Deno.lint.RuleContext, node: Deno.lint.Node, source: unknown, typeOnly: boolean) {
  if (typeof source !== "string" || !source.startsWith(".")) return;
  const from = partOf(context.filename);
  const target = new URL(source, `file://${context.filename}`).pathname;
  const to = partOf(target);
  const rule = allowed[from];
  const permitted = (typeOnly ? rule?.types : rule?.values) ?? [to];
  if (rule === undefined || permitted.includes(to) || permitted.includes(target.slice(root.length))) return;
  const kind = typeOnly || !rule.types.includes(to) ? "" : " for anything but types";
  const choice = rule.values.join(", ");
  context.report({ node, message: `${from} may not import ${to}${kind}: it may import ${choice}` });
}

function importDirections(context: Deno.lint.RuleContext): Deno.lint.LintVisitor {
  const visit = (node: Importer) => {
    if (node.source) checkDirection(context, node, node.source.value, isTypeOnly(node));
  };
  return {
    ImportDeclaration: visit,
    ExportNamedDeclaration: visit,
    ExportAllDeclaration: visit,
    ImportExpression(node) {
      if (node.source.type === "Literal") checkDirection(context, node, node.source.value, false);
    },
  };
}

function functionLength(context: Deno.lint.RuleContext): Deno.lint.LintVisitor {
  const visit = (
    node: Deno.lint.FunctionDeclaration | Deno.lint.FunctionExpression | Deno.lint.ArrowFunctionExpression,
  ) => {
    const lines = context.sourceCode.getText(node).split("\n").length;
    if (lines <= lengthMax) return;
    context.report({ node, message: `a function of ${lines} lines: split it, ${lengthMax} are enough` });
  };
  return { FunctionDeclaration: visit, FunctionExpression: visit, ArrowFunctionExpression: visit };
}

function lineLength(context: Deno.lint.RuleContext): Deno.lint.LintVisitor {
  return {
    Program() {
      if (context.filename.endsWith(".gen.ts")) return;
      let start = 0;
      for (const line of context.sourceCode.text.split("\n")) {
        const end = start + line.length;
        if (line.length > columnsMax) {
          context.report({
            range: [start, end],
            message: `a line of ${line.length} columns: ${columnsMax} are enough`,
          });
        }
        start = end + 1;
      }
    },
  };
}

const plugin: Deno.lint.Plugin = {
  name: "house",
  rules: {
    "import-directions": { create: importDirections },
    "function-length": { create: functionLength },
    "line-length": { create: lineLength },
  },
};

export default plugin;
