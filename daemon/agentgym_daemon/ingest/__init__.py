"""What comes in: the segment log (`log`) and the lenient decoding of OTLP (`otlp`)."""
