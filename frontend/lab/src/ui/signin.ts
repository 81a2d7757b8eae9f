/**
 * Signing in again: opens the login, and notices when somebody signed in, here or in another tab.
 *
 * It asks seldom, and never while nobody looks at the page, unless the login that it opened itself is
 * still there.
 */

export interface SignInOptions {
  /** Whether the server knows us now; `null` where that could not be found out. */
  readonly check: () => Promise<boolean | null>;
  /** What was found. */
  readonly onKnown: (known: boolean | null) => void;
  /** Somebody signed in: refused sockets may connect again. */
  readonly onSignedIn: () => void;
  /** Opens an address in a window of its own, from which this page cannot be reached. */
  readonly open?: (address: Promise<string>) => LoginWindow | null;
}

export type LoginWindow = Pick<Window, 'close' | 'closed'>;

/** Milliseconds between two questions: at first, and after a long time. */
const SOONEST = 5_000;
const LATEST = 60_000;
/** While the login is open in a window of ours, and for how long that counts. */
const DURING_LOGIN = 2_000;
const LOGIN_TAKES = 600_000;

export class SignIn {
  private readonly _options: SignInOptions;
  private readonly _open: (address: Promise<string>) => LoginWindow | null;
  private _wanted = false;
  private _since = 0;
  private _busy = false;
  /** The server was seen not to know us: when it does, somebody signed in. */
  private _out = false;
  /** The user said that he signs in: the next good answer counts in any case. */
  private _begun = false;
  private _window: LoginWindow | null = null;
  private _windowSince = 0;
  private _timer: ReturnType<typeof setTimeout> | undefined;

  constructor(options: SignInOptions) {
    this._options = options;
    this._open = options.open ?? openLogin;
    // In another tab, or in the one that we opened: this page is looked at again afterwards.
    document.addEventListener('visibilitychange', () => this._nudge());
    window.addEventListener('focus', () => this._nudge());
  }

  /** Whether it matters at all. */
  set wanted(wanted: boolean) {
    if (wanted === this._wanted) {
      return;
    }
    this._wanted = wanted;
    clearTimeout(this._timer);
    if (wanted) {
      this._since = Date.now();
      this._out = false;
      void this._ask();
    } else {
      this._begun = false;
      this._forgetWindow();
    }
  }

  /**
   * The user wants to sign in.
   *
   * @returns whether there is a window for that
   */
  begin(address: Promise<string>): boolean {
    this._begun = true;
    if (this._window && !this._window.closed) {
      this._window.close();
    }
    this._window = this._open(address);
    this._windowSince = Date.now();
    this._next();
    return this._window !== null;
  }

  /** Ask at once. `begun`: a good answer counts even if it was never seen to be otherwise. */
  async now(begun: boolean): Promise<void> {
    this._begun ||= begun;
    await this._ask();
  }

  private _nudge(): void {
    if (this._wanted && document.visibilityState === 'visible') {
      void this._ask();
    }
  }

  private async _ask(): Promise<void> {
    if (this._busy) {
      return;
    }
    this._busy = true;
    clearTimeout(this._timer);
    const known = await this._options.check().catch(() => null);
    this._busy = false;
    if (!this._wanted) {
      return;
    }
    this._options.onKnown(known);
    if (known === false) {
      this._out = true;
    } else if (known && (this._out || this._begun)) {
      // Only once: where sockets are refused all the same, that must not go round and round.
      this._out = false;
      this._begun = false;
      this._forgetWindow();
      this._options.onSignedIn();
    }
    this._next();
  }

  private _next(): void {
    clearTimeout(this._timer);
    const during = this._inLogin();
    if (this._wanted && (during || document.visibilityState === 'visible')) {
      const passed = Date.now() - this._since;
      const wait = during ? DURING_LOGIN : Math.min(LATEST, Math.max(SOONEST, passed / 10));
      this._timer = setTimeout(() => void this._ask(), wait);
    }
  }

  private _inLogin(): boolean {
    return this._window !== null && !this._window.closed && Date.now() - this._windowSince < LOGIN_TAKES;
  }

  private _forgetWindow(): void {
    this._window?.close();
    this._window = null;
  }
}

/**
 * Login pages may be other people's: they get no way to reach this page. `noopener` would do that too, but
 * then this page could not close the window when it is not needed any more.
 */
export function openLogin(address: Promise<string>): LoginWindow | null {
  // At once: browsers allow it only as the answer to a click.
  const opened = window.open('', '_blank');
  if (opened) {
    opened.opener = null;
    void address.then(known => {
      opened.location.href = known;
    });
  }
  return opened;
}
