// Drives a page in headless Chromium: reads {page, browser, steps} as JSON from stdin, writes what it saw as JSON.
// Steps: ["click"|"hover", selector], ["fill", selector, text], ["press", selector, key], ["select", selector, value],
// ["wheel", delta], ["drag", dx, dy], ["shot", file]; ["eval", expression] adds its value to `values`.
import { createRequire } from "node:module";

const require = createRequire(process.env.PLAYWRIGHT_CORE);
const { chromium } = require(process.env.PLAYWRIGHT_CORE);
let text = "";
for await (const chunk of process.stdin) text += chunk;
const { page: url, browser: executablePath, steps } = JSON.parse(text);
const quiet = ["--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking",
  "--disable-component-update", "--disable-sync"];
const browser = await chromium.launch({ executablePath, headless: true, args: quiet });
const seen = { errors: [], requests: [], values: [] };
try {
  const page = await browser.newPage({ viewport: { width: 1500, height: 950 } });
  page.setDefaultTimeout(15000);
  page.on("pageerror", (error) => seen.errors.push(String(error)));
  page.on("console", (message) => { if (message.type() === "error") seen.errors.push(message.text()); });
  page.on("request", (request) => { if (request.url() !== url) seen.requests.push(request.url()); });
  await page.goto(url);
  const middle = async () => {
    const box = await page.locator("#stage").boundingBox();
    await page.mouse.move(box.x + box.width / 2, box.y + 20);
  };
  for (const [action, ...given] of steps) {
    if (action === "eval") seen.values.push(await page.evaluate(given[0]));
    else if (action === "click") await page.click(given[0]);
    else if (action === "hover") await page.hover(given[0]);
    else if (action === "fill") await page.fill(given[0], given[1]);
    else if (action === "press") await page.press(given[0], given[1]);
    else if (action === "select") await page.selectOption(given[0], given[1]);
    else if (action === "wheel") { await middle(); await page.mouse.wheel(0, given[0]); await page.waitForTimeout(200); }
    else if (action === "drag") { await middle(); await page.mouse.down(); await page.mouse.move(700 + given[0], 300 + given[1], { steps: 4 });
      await page.mouse.up(); }
    else if (action === "shot") await page.screenshot({ path: given[0] });
    else throw new Error(`no step is called ${action}`);
  }
} finally {
  await browser.close();
}
console.log(JSON.stringify(seen));
