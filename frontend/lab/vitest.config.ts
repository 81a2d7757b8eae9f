import { fileURLToPath } from 'node:url';
import { defineConfig } from 'vitest/config';

export default defineConfig({
  resolve: {
    alias: { 'jupyter-token-ws': fileURLToPath(new URL('../src/index.ts', import.meta.url)) }
  },
  test: {
    environment: 'happy-dom',
    include: ['test/**/*.test.ts'],
    // What hangs fails; a busy machine does not.
    testTimeout: 60_000,
    hookTimeout: 60_000,
    // Vitest fails a run in which anything was left unhandled; nothing may switch that off.
    dangerouslyIgnoreUnhandledErrors: false,
    coverage: {
      provider: 'v8',
      include: ['src/**/*.ts'],
      reporter: ['text', 'json-summary'],
      thresholds: { branches: 95, functions: 95, lines: 95, statements: 95 }
    }
  }
});
