// The step handlers of this worker, by the name that a template's `handler` gives.
//
// A handler gets its step: `context`, `initialization` and all other fields of the dispatch, `signal` (aborted
// when the step is cancelled or out of time) and `dependency(name)`, the result of an earlier step. What it
// returns is the step's result. An error that it throws is tried again, unless it says `retryable: false`.

const PAGES = { text: (line) => line, html: (line) => `<p>${escape(line)}</p>`, markdown: (line) => `**${line}**` };
const escape = (text) => text.replace(/[&<>]/g, (sign) => `&#${sign.charCodeAt(0)};`);

export async function polyglot_render(step) {
  const { line, language } = await step.dependency("compose");
  const format = step.context.format ?? step.initialization.format ?? "text";
  if (!Object.hasOwn(PAGES, format)) {
    const known = Object.keys(PAGES).join(", ");
    throw Object.assign(new Error(`the format is one of ${known}, not ${format}`), {
      retryable: false, error_type: "validation_error", error_code: "UNKNOWN_FORMAT",
    });
  }
  return { page: PAGES[format](line), format, language, rendered_by: `node ${process.versions.node}` };
}
