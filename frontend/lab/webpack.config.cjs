// What JupyterLab's builder is told beyond package.json.

const path = require('node:path');

module.exports = {
  resolve: {
    // The package beside this one, as `build.cjs` compiled it. Not from a registry, and no link either.
    alias: { 'jupyter-token-ws': path.resolve(__dirname, 'lib/jupyter-token-ws/index.js') }
  }
};
