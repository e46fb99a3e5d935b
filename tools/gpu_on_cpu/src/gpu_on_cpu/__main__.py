from gpu_on_cpu.cli import app

app(prog_name="gpu_on_cpu")
