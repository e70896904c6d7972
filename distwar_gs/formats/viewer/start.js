// Shows the model that lies in this page, with the viewer that lies in it too: nothing is fetched from anywhere.

// The content of an element that holds base64.
function bytesOf(id) {
    const held = document.getElementById(id).textContent;
    if (Uint8Array.fromBase64) return Uint8Array.fromBase64(held);
    const text = atob(held);
    const bytes = new Uint8Array(text.length);
    for (let i = 0; i < text.length; i++) bytes[i] = text.charCodeAt(i);
    return bytes;
}

// The list of keys that a new visitor sees would hide much of a small picture; a button of the viewer shows it.
function hideKeys() {
    try {
        localStorage.controlsPanelOpen ??= "false";
    } catch {
        // a browser that keeps nothing for pages from the file system
    }
}

// Fills the container, which must have a size. Its data-state goes from "loading" to "shown", or to "failed", and then
// it says why.
async function showModel(container) {
    container.dataset.state = "loading";
    hideKeys();
    try {
        const unpacked = new Blob([bytesOf("viewer-program")]).stream().pipeThrough(new DecompressionStream("gzip"));
        const program = await new Response(unpacked, { headers: { "Content-Type": "text/javascript" } }).blob();
        // A page from the file system may import no file beside it, but what it made itself.
        const { createViewer } = await import(URL.createObjectURL(program));
        const settings = JSON.parse(document.getElementById("viewer-settings").textContent);
        const viewer = await createViewer({
            container,
            settings: settings.experience,
            contentUrl: "model.sog",
            contentFilename: "model.sog",
            contents: Promise.resolve(new Response(bytesOf("model-sog"))),
            renderer: "webgl", // of the two, the one that every browser has
            aa: settings.antialiased,
        });
        container.viewer = viewer;
        const shown = () => (container.dataset.state = "shown");
        if (viewer.state.loaded) shown();
        else viewer.events.on("loaded:changed", shown);
    } catch (error) {
        container.dataset.state = "failed";
        container.textContent = `The model cannot be shown: ${error.message || error}. It needs WebGL 2.`;
    }
}
