// The world's shapes as paths around (0, 0) with radius 1, exact enough to place them. The server
// paints the picture for the model, with texture and noise.

function shapePath(shape) {
  const path = new Path2D();
  const polygon = (points) => {
    points.forEach(([x, y], i) => (i ? path.lineTo(x, y) : path.moveTo(x, y)));
    path.closePath();
  };
  const regular = (corners, turn, radius = () => 1) => polygon(
    Array.from({ length: corners }, (_, i) => {
      const angle = turn + (2 * Math.PI * i) / corners;
      return [radius(i) * Math.cos(angle), radius(i) * Math.sin(angle)];
    }));
  const disc = (x, y, radius) => {
    path.moveTo(x + radius, y);
    path.arc(x, y, radius, 0, 2 * Math.PI);
  };
  const b = 0.3, a = 0.95;
  const draw = {
    square: () => regular(4, Math.PI / 4),
    digit: () => regular(4, Math.PI / 4),
    triangle: () => regular(3, -Math.PI / 2),
    star: () => regular(10, -Math.PI / 2, (i) => (i % 2 ? 0.42 : 1)),
    cross: () => polygon([[-b, -a], [b, -a], [b, -b], [a, -b], [a, b], [b, b], [b, a], [-b, a],
      [-b, b], [-a, b], [-a, -b], [-b, -b]]),
    heart: () => polygon(Array.from({ length: 60 }, (_, i) => heartPoint((i * Math.PI) / 30))),
    circle: () => disc(0, 0, 1),
    ring: () => { disc(0, 0, 1); disc(0, 0, 0.55); },
    moon: () => crescent(path),
  };
  (draw[shape] || draw.circle)();
  return path;
}

function heartPoint(t) {
  const y = 13 * Math.cos(t) - 5 * Math.cos(2 * t) - 2 * Math.cos(3 * t) - Math.cos(4 * t);
  return [(16 * Math.sin(t) ** 3) / 17, (-y - 2.5) / 17];
}

// A disc without the smaller disc that covers its right side.
function crescent(path) {
  const [x, y, r] = [0.45, -0.1, 0.85], away = Math.hypot(x, y), middle = Math.atan2(y, x);
  const outer = Math.acos((1 + away * away - r * r) / (2 * away));
  const inner = Math.acos((r * r + away * away - 1) / (2 * r * away));
  path.arc(0, 0, 1, middle + outer, middle - outer);
  path.arc(x, y, r, middle + Math.PI + inner, middle + Math.PI - inner, true);
  path.closePath();
}

function radiusOf(thing) {
  const full = thing.shape === "digit" ? props.digit_radius : props.sizes[thing.size];
  return full * (thing.scale || 1);
}

function paintThing(context, thing, unit) {
  context.save();
  context.translate(thing.x * unit, thing.y * unit);
  context.rotate(thing.angle || 0);
  context.scale(radiusOf(thing) * unit, radiusOf(thing) * unit);
  context.fillStyle = thing.shape === "digit" ? "#f0f0f0" : props.colours[thing.colour];
  context.fill(shapePath(thing.shape), "evenodd");
  if (thing.shape === "digit") {
    context.fillStyle = props.ink;
    context.font = "1.1px sans-serif";
    context.textAlign = "center";
    context.textBaseline = "middle";
    context.fillText(String(thing.digit), 0, 0.05);
  }
  context.restore();
}
