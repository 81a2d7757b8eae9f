/** See README.md. */

export type { Carrier, OpenCarrier } from './carrier.js';
export {
  Connections,
  readCapabilities,
  type Cause,
  type ConnectionEvent,
  type ConnectionOptions
} from './connections.js';
export { KERNEL, MARKER, REASON_MARKER, REASONS, type Advice, type Reason, type Slug } from './constants.js';
export { parseClose, type Closed } from './reasons.js';
export { tokenWebSocket } from './socket.js';
export { encodeToken, offerSubprotocols } from './subprotocols.js';
export { addresses, pathBelow, tokenRoute, type Capabilities, type TokenRoute } from './trust.js';
