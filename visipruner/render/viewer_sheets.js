// The places of the tokens: boxes on sheets, sheets side by side on one plane.

// The boxes of a sheet, in pixels of its picture: {token: [left, top, right, bottom]}.
function boxesOf(sheet, length) {
  const bytes = bytesOf(sheet.boxes), boxes = {};
  const edge = (i) => (bytes[2 * i] + 256 * bytes[2 * i + 1]) / sheet.parts;
  patchesOf(sheet.at, length).forEach((token, i) => {
    boxes[token] = [0, 1, 2, 3].map((side) => edge(4 * i + side));
  });
  return boxes;
}

const WIDE = 1000, GAP = 20; // width of a plane with several sheets, and the gap between them

// Gives every sheet its frame on one plane, and returns the plane's size. A single sheet fills it
// pixel by pixel. Several stand side by side, two in a row, equally high within a row.
function planeOf(sheets) {
  if (sheets.length < 2) {
    const [width, height] = sheets.length ? sheets[0].size : [1, 1];
    for (const sheet of sheets) sheet.frame = { left: 0, top: 0, right: width, bottom: height, scale: 1 };
    return { width, height };
  }
  let bottom = -GAP;
  for (let i = 0; i < sheets.length; i += 2) {
    const row = sheets.slice(i, i + 2), top = bottom + GAP;
    const shares = row.reduce((sum, { size }) => sum + size[0] / size[1], 0);
    const high = (WIDE - GAP * (row.length - 1)) / shares;
    let left = 0;
    bottom = top + high;
    for (const sheet of row) {
      const scale = high / sheet.size[1], right = left + sheet.size[0] * scale;
      sheet.frame = { left, top, right, bottom, scale };
      left = right + GAP;
    }
  }
  return { width: WIDE, height: bottom };
}

// The rows and columns of the boxes, if they form a grid; null otherwise.
function latticeOf(boxes) {
  const distinct = (side) => [...new Set(boxes.map((box) => box[side]))].sort((a, b) => a - b);
  const tops = distinct(1), lefts = distinct(0);
  return tops.length * lefts.length === boxes.length ? { tops, lefts } : null;
}

// The box of each token on the plane of all sheets; null: the token has no place.
class Places {
  constructor(sheets, length) {
    this.length = length;
    this.sheets = sheets.map((sheet) => ({ ...sheet, own: boxesOf(sheet, length) }));
    this.plane = planeOf(this.sheets);
    this.boxes = new Array(this.length).fill(null);
    this.sheetOf = new Array(this.length).fill(null);
    for (const sheet of this.sheets) {
      const { left, top, scale } = sheet.frame;
      for (const [token, [x1, y1, x2, y2]] of Object.entries(sheet.own)) {
        this.boxes[token] = [left + x1 * scale, top + y1 * scale,
          left + x2 * scale, top + y2 * scale];
        this.sheetOf[token] = sheet;
      }
      sheet.lattice = latticeOf(Object.values(sheet.own));
    }
    this.placed = [...this.boxes.keys()].filter((token) => this.boxes[token]);
  }

  // The token at a point of the plane, the smallest if several are there; -1: none.
  at(x, y) {
    const area = ([left, top, right, bottom]) => (right - left) * (bottom - top);
    let found = -1;
    for (const token of this.placed) {
      const [left, top, right, bottom] = this.boxes[token];
      if (x < left || x >= right || y < top || y >= bottom) continue;
      if (found < 0 || area(this.boxes[token]) < area(this.boxes[found])) found = token;
    }
    return found;
  }

  // The nearest token in the direction of an arrow key, or the same token.
  beside(token, key) {
    const [across, sign] = { ArrowLeft: [0, -1], ArrowRight: [0, 1], ArrowUp: [1, -1],
      ArrowDown: [1, 1] }[key];
    const middle = (one, axis) => (this.boxes[one][axis] + this.boxes[one][axis + 2]) / 2;
    let best = token, least = Infinity;
    for (const other of this.placed) {
      const along = sign * (middle(other, across) - middle(token, across));
      const aside = Math.abs(middle(other, 1 - across) - middle(token, 1 - across));
      // A token that is mostly above or below is not to the right.
      const cost = along + 3 * aside;
      if (along > 1e-6 && aside <= along && cost < least) [best, least] = [other, cost];
    }
    return best;
  }

  place(patch) {
    const sheet = this.sheetOf[patch];
    if (!sheet) return "A token without a place";
    const [left, top] = sheet.own[patch], percent = (share) => Math.round(100 * share);
    const where = sheet.lattice
      ? `row ${sheet.lattice.tops.indexOf(top) + 1}, column ${sheet.lattice.lefts.indexOf(left) + 1}`
      : `${percent(left / sheet.size[0])} % from the left, ${percent(top / sheet.size[1])} % from the top`;
    const named = this.sheets.length > 1 && sheet.name ? `${sheet.name}, ${where}` : where;
    return named[0].toUpperCase() + named.slice(1);
  }

  // The layout of all sheets' tokens, in words that begin with a comma; "" without tokens.
  gridText() {
    const [sheet] = this.sheets;
    if (!this.placed.length) return "";
    if (this.sheets.length > 1 || !sheet.lattice) return `, ${this.placed.length} patches`;
    return `, ${sheet.lattice.tops.length} by ${sheet.lattice.lefts.length} patches`;
  }
}
