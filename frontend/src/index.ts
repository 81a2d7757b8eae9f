/** See README.md. */

export { Connections, type Cause, type ConnectionEvent, type ConnectionOptions } from './connections';
export { KERNEL, MARKER, REASON_MARKER, REASONS, type Advice, type Reason, type Slug } from './constants';
export { parseClose, type Closed } from './reasons';
export { tokenWebSocket } from './socket';
export { encodeToken, offerSubprotocols } from './subprotocols';
export { pathBelow, tokenRoute, type Capabilities, type TokenRoute } from './trust';
