"""The kernels of a batch's notebooks."""

from jupyter_client.manager import AsyncKernelManager


class ForkedKernelManager(AsyncKernelManager):
    """Starts a Python kernel as a fork where there are any to be had (`forks`), and any other kernel as it is."""

    def format_kernel_cmd(self, extra_arguments: list[str] | None = None) -> list[str]:
        """The command of the kernel."""
        command = super().format_kernel_cmd(extra_arguments)
        if "ipykernel_launcher" in command:
            command.insert(command.index("ipykernel_launcher"), "collabopt.batch.forks")
        return command
