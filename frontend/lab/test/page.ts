/** The page that these tests run in. */

/** Let the page be at this address. */
export function goTo(address: string): void {
  (window as unknown as { happyDOM: { setURL(url: string): void } }).happyDOM.setURL(address);
}
