// Values to messages and back, without a connection. The P numbers are clauses of worker/PROTOCOL.md.

const RESULT_BYTES_MAX = 256 * 1024, ERROR_CHARS_MAX = 8_192; // P23
const DEFAULTS = { initialization: {}, context: {}, dependency_results: {}, dependency_results_complete: true };

/** The subject token of a name (P3). */
export function token(name) {
  const escaped = (sign) => `_x${Buffer.from(sign, "latin1").toString("hex")}`;
  return Buffer.from(name).toString("latin1").replace(/[^A-Za-z0-9_-]|_(?=x)/g, escaped);
}

/** JSON text without lone surrogates, which other readers refuse (P1). */
export function encode(value) {
  return JSON.stringify(value, (_, inner) => (typeof inner === "string" ? inner.toWellFormed() : inner));
}

/** The dispatch in a message, absent fields filled in (P4); throws `SyntaxError` where it is none (P10). */
export function decodeDispatch(message) {
  const step = { ...DEFAULTS, ...message.json() };
  if (step.kind !== "dispatch") throw new SyntaxError(`the message's kind is ${step.kind}`);
  return step;
}

/** An error that says how the step goes on (P22). */
export function fault(message, error_type, error_code, retryable = true) {
  return Object.assign(new Error(message), { error_type, error_code, retryable });
}

/** The outcome of a handler that returned `result`, which must fit into a message (P23). */
export function success(result = null) {
  let size_bytes;
  try {
    size_bytes = Buffer.byteLength(encode(result));
  } catch (error) {
    throw fault(`the result is not JSON: ${error.message}`, "permanent_error", "RESULT_NOT_SERIALIZABLE", false);
  }
  if (size_bytes <= RESULT_BYTES_MAX) return { kind: "success", result };
  const message = `the result has ${size_bytes} bytes, ${RESULT_BYTES_MAX} are allowed`;
  throw fault(message, "permanent_error", "RESULT_TOO_LARGE", false);
}

/** The outcome of a handler that threw `error` (P22, P23). */
export function failure(error) {
  const { retryable = true, error_code = null, retry_after_ms = null } = Object(error);
  const { error_type = retryable ? "handler_error" : "permanent_error" } = Object(error);
  const error_message = [...String(error?.message ?? error)].slice(0, ERROR_CHARS_MAX).join("");
  return { kind: "failure", error_message, error_type, error_code, retryable, retry_after_ms };
}
