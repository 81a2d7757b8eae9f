/** What browsers have and node 20 lacks. */

if (typeof CloseEvent === 'undefined') {
  class NodeCloseEvent extends Event {
    readonly code: number;
    readonly reason: string;
    readonly wasClean: boolean;

    constructor(type: string, init: CloseEventInit = {}) {
      super(type, init);
      this.code = init.code ?? 0;
      this.reason = init.reason ?? '';
      this.wasClean = init.wasClean ?? false;
    }
  }
  Object.defineProperty(globalThis, 'CloseEvent', { value: NodeCloseEvent, configurable: true });
}
