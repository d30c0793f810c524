// Records what the unmodified JS exporter sends: one gRPC server that keeps raw request bytes.
import grpc from "@grpc/grpc-js";
import fs from "node:fs";
import { NodeTracerProvider, BatchSpanProcessor } from "@opentelemetry/sdk-trace-node";
import { OTLPTraceExporter } from "@opentelemetry/exporter-trace-otlp-grpc";
import { resourceFromAttributes, defaultResource } from "@opentelemetry/resources";
import { trace, context, SpanKind, SpanStatusCode, TraceFlags, createTraceState } from "@opentelemetry/api";
Error.stackTraceLimit = 0;
const got = [];
const id = (x) => x;
const server = new grpc.Server();
server.addService({ Export: { path: "/opentelemetry.proto.collector.trace.v1.TraceService/Export", requestStream: false, responseStream: false,
  requestSerialize: id, requestDeserialize: id, responseSerialize: id, responseDeserialize: id } },
  { Export: (call, done) => { got.push({ data: call.request, metadata: call.metadata.getMap() }); done(null, Buffer.alloc(0)); } });
await new Promise((ok) => server.bindAsync("127.0.0.1:0", grpc.ServerCredentials.createInsecure(), (e, port) => { globalThis.port = port; ok(); }));
async function run(out, compression) {
  const exporter = new OTLPTraceExporter({ url: `http://127.0.0.1:${port}`, compression });
  const provider = new NodeTracerProvider({ resource: defaultResource().merge(resourceFromAttributes({ "service.name": "js-desk", "service.version": "1.4.2", "host.cores": 2 })),
    spanProcessors: [new BatchSpanProcessor(exporter)] });
  const tracer = provider.getTracer("@example/agents", "0.9.1");
  const remote = trace.setSpanContext(context.active(), { traceId: "0af7651916cd43dd8448eb211c80319c", spanId: "b7ad6b7169203331", traceFlags: TraceFlags.SAMPLED, isRemote: true, traceState: createTraceState("vendor=1,other=x") });
  const root = tracer.startSpan("invoke_agent desk", { kind: SpanKind.SERVER, attributes: { "gen_ai.operation.name": "invoke_agent", "gen_ai.agent.name": "desk" } }, remote);
  const inRoot = trace.setSpan(remote, root);
  const chat = tracer.startSpan("chat gpt-4o", { kind: SpanKind.CLIENT, attributes: { "gen_ai.operation.name": "chat", "gen_ai.request.model": "gpt-4o", "gen_ai.usage.input_tokens": 321, "gen_ai.usage.output_tokens": 17, "temperature": 0.25, "stream": false, "stop": ["a", "b"], "mixed": [1, 2, 3] } }, inRoot);
  chat.addEvent("gen_ai.choice", { index: 0, finish_reason: "tool_calls" });
  chat.end();
  const tool = tracer.startSpan("execute_tool look_up", { attributes: { "gen_ai.operation.name": "execute_tool", "gen_ai.tool.name": "look_up", "gen_ai.tool.call.id": "call_1" }, links: [{ context: chat.spanContext(), attributes: { why: "asked for" } }] }, inRoot);
  tool.recordException(new Error("no such order"));
  tool.setStatus({ code: SpanStatusCode.ERROR, message: "no such order" });
  tool.end();
  const other = provider.getTracer("second-scope").startSpan("aside", { kind: SpanKind.PRODUCER }, inRoot);
  other.end();
  root.end();
  await provider.forceFlush();
  await provider.shutdown();
  fs.writeFileSync(out, got.at(-1).data);
  console.log(out, got.length, got.at(-1).data.length, got.at(-1).metadata);
}
await run(process.argv[2]);
server.forceShutdown();
