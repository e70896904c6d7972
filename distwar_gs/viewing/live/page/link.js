// The socket: one wish for a picture at a time, so that a slow training or a slow network never piles anything up.

export class Link {
  // heard: {picture(header, blob), status(content), notice(words), ended(words), opened(), closed()}.
  constructor(heard) {
    this.heard = heard;
    this.number = 0;
    this.asked = 0;  // when; 0: nothing is under way
    this.isOver = false;
    this.connect();
  }

  connect() {
    this.socket = new WebSocket(`${location.protocol === "https:" ? "wss" : "ws"}://${location.host}/socket`);
    this.socket.binaryType = "arraybuffer";
    this.socket.onopen = () => { this.asked = 0; this.heard.opened(); };
    this.socket.onmessage = (event) => this.take(event.data);
    this.socket.onclose = () => {
      this.asked = 0;
      this.heard.closed(this.isOver);
      if (!this.isOver) setTimeout(() => this.connect(), 2000);
    };
  }

  get isFree() { return this.socket.readyState === WebSocket.OPEN && !this.asked; }

  send(order) {
    if (this.socket.readyState === WebSocket.OPEN) this.socket.send(JSON.stringify(order));
  }

  look(wish) {
    this.asked = performance.now();
    this.send({ do: "look", number: ++this.number, ...wish });
  }

  take(data) {
    if (typeof data !== "string") {
      const size = new DataView(data).getUint32(0, true);
      const header = JSON.parse(new TextDecoder().decode(new Uint8Array(data, 4, size)));
      header.took = performance.now() - this.asked;
      this.asked = 0;
      this.heard.picture(header, new Blob([new Uint8Array(data, 4 + size)], { type: "image/jpeg" }));
      return;
    }
    const content = JSON.parse(data);
    if (content.kind === "end") this.isOver = true;
    if (content.kind === "status") this.heard.status(content);
    else this.heard.notice(content.words);
  }
}
