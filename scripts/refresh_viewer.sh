#!/usr/bin/env bash
# Takes another version of the viewer that pages with a model carry (distwar_gs/formats/html_page.py):
#
#     scripts/refresh_viewer.sh 1.36.2        # needs npm and the network; then: pytest tests/test_html_page.py
#
# The npm package @playcanvas/supersplat-viewer (MIT) is kept as it is, program compressed, with its licence, its name
# and version (package.json), and checksums of what came. Look at its changes before you commit them.
set -euo pipefail
version=${1:?give a version, such as 1.36.2}
folder=$(cd "$(dirname "$0")/../distwar_gs/formats/viewer" && pwd)
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
archive=$(npm pack --silent "@playcanvas/supersplat-viewer@$version")
tar -xzf "$archive"
cp package/LICENSE package/package.json "$folder"
cp package/public/index.css "$folder/supersplat-viewer.css"
gzip -9 --no-name --stdout package/public/index.js > "$folder/supersplat-viewer.js.gz"
(cd package && sha256sum LICENSE package.json public/index.css public/index.js) > "$folder/SHA256SUMS"
cat "$folder/SHA256SUMS"
